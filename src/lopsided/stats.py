"""Statistics that several packages use: bootstrap draws, intervals, medians, rank correlation, standard errors.

Notation: `n` rows (or runs, or methods); a *draw* is n row numbers from 0..n-1 with replacement. Intervals hold the
middle 95 %. Every function of chance takes a seed, or a generator that goes on from draw to draw, and draws in a fixed
order, so that its figures are the same on every machine.

Rows are resampled in three ways, and which one is right depends on what else could have come out differently:

    bootstrap_means           one sample of rows
    paired_interval           the same rows under two models: both sides see the same draws
    crossed_bootstrap_means   rows under several seeds: rows and seeds are drawn independently
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, rankdata
from scipy.stats import t as student

LOW, HIGH = 0.025, 0.975
# Numbers drawn at a time: 8 MB of row numbers.
BLOCK = 2**20

Interval = tuple[float, float]


# -- bootstrap ---------------------------------------------------------------------------------------------------


def row_draws(n: int, draws: int, *, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield row numbers drawn with replacement, (n,) each, as often as `draws` says."""
    generator = np.random.RandomState(seed)
    for _ in range(draws):
        yield generator.randint(0, n, size=n)


def percentile_interval(values: np.ndarray) -> Interval:
    """Return the ends of the middle 95 % of bootstrap draws, all of them finite."""
    low, high = np.quantile(values, [LOW, HIGH])
    return float(low), float(high)


def bootstrap_means(values: np.ndarray, draws: int, generator: np.random.RandomState) -> np.ndarray:
    """Return the means of rows drawn with replacement.

    Args:
        values: one figure per row.
        draws: how often to draw as many rows as there are.
        generator: goes on from where it stands, so that several samples are drawn independently.

    Shapes:
        values: (n,) -> (draws,)

    Source:
        Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    size = values.size
    # In blocks, since all row numbers at once may not fit into memory. The stream of numbers is the same.
    chunk = max(1, BLOCK // size)
    means = [
        values[generator.randint(0, size, size=(min(chunk, draws - first), size))].mean(axis=1)
        for first in range(0, draws, chunk)
    ]
    return np.concatenate(means)


def paired_interval(
    base: Mapping[str, np.ndarray],
    tuned: Mapping[str, np.ndarray],
    figure: Callable[[Mapping[str, np.ndarray]], float],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the 95 % interval of figure(tuned) − figure(base), with the same rows drawn for both sides.

    NaN at both ends where the figure is not finite on some of the draws: the others alone would describe another
    figure.

    Shapes:
        base, tuned: the same columns, (n,) each.

    Example:
        >>> rows = {"loss": np.array([1.0, 2.0])}
        >>> paired_interval(rows, {"loss": rows["loss"] + 0.5}, lambda side: float(side["loss"].mean()))
        (0.5, 0.5)
    """
    n = len(next(iter(base.values())))
    differences = []
    for index in row_draws(n, draws, seed=seed):
        after, before = (figure({name: column[index] for name, column in side.items()}) for side in (tuned, base))
        differences.append(after - before)
    if not np.isfinite(differences).all():
        return math.nan, math.nan
    return percentile_interval(np.array(differences))


def crossed_bootstrap_means(differences: np.ndarray, draws: int, *, seed: int = 0) -> np.ndarray:
    """Return means of paired differences under resampling of seeds and, independently of them, of rows.

    Both count: another seed would have ended elsewhere, and other rows would have judged otherwise. The interval is
    slightly wide rather than narrow.

    Shapes:
        differences: (seeds, rows) -> (draws,)

    Source:
        Owen 2007, "The pigeonhole bootstrap", arXiv:0712.1111.
    """
    seeds, rows = differences.shape
    generator = np.random.RandomState(seed)
    # How often each seed and each row was drawn. The mean is then linear in the two counts.
    by_seed = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    by_row = generator.multinomial(rows, np.full(rows, 1 / rows), size=draws)
    return np.sum(by_seed @ differences * by_row, axis=1) / (seeds * rows)


# -- medians -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Median:
    """A median with its 95 % interval."""

    value: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> Median:
    """Return the median and its 95 % interval from order statistics, which asks nothing of the distribution.

    With n values in order, [x_k, x_(n+1-k)] holds the true median with probability 1 - 2·P(Bin(n, ½) < k); k is the
    largest with at least 95 %. Fewer than six values have no such k, and the interval is their whole range.

    Source:
        David and Nagaraja 2003, Order Statistics, section 7.1.

    Example:
        >>> median_interval([3.0, 1.0, 2.0])
        Median(value=2.0, low=1.0, high=3.0)
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    k = max(1, int(binom.ppf(LOW, n, 0.5)))
    return Median(value=float(np.median(ordered)), low=float(ordered[k - 1]), high=float(ordered[n - k]))


def median_ratio(values: Sequence[float], reference: Sequence[float]) -> Median:
    """Return the median over rounds of one figure as a multiple of another of the same round.

    What slows a whole round down (another process, the processor's clock) cancels.

    Shapes:
        values, reference: (rounds,)
    """
    return median_interval([mine / theirs for mine, theirs in zip(values, reference, strict=True)])


# -- ranks -------------------------------------------------------------------------------------------------------


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1 along the last axis; ties share their mean rank.

    Example:
        >>> ranks(np.array([0.3, 0.1, 0.3]))
        array([2.5, 1. , 2.5])
    """
    return rankdata(values, axis=-1)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute Spearman's correlation along the last axis; NaN where a side is constant.

    Sums of centred ranks are exact in float64, so two draws that order alike give the same number, and comparing
    draws for equality is safe.

    Shapes:
        x, y: (..., n) -> (...)
    """
    a, b = (ranks(values) - (np.shape(values)[-1] + 1) / 2 for values in (x, y))
    with np.errstate(invalid="ignore"):
        return np.sum(a * b, axis=-1) / np.sqrt(np.sum(a * a, axis=-1) * np.sum(b * b, axis=-1))


def rank_correlation_interval(x: np.ndarray, y: np.ndarray, *, draws: int, seed: int = 0) -> Interval | None:
    """Return the 95 % bootstrap interval of the rank correlation, over points drawn with replacement.

    Draws in which a side is constant have no order and are left out. None where the correlation itself is undefined.

    Shapes:
        x, y: (n,)
    """
    if not np.isfinite(rank_correlation(x, y)):
        return None
    index = np.stack(list(row_draws(len(x), draws, seed=seed)))
    drawn = rank_correlation(x[index], y[index])
    return percentile_interval(drawn[np.isfinite(drawn)])


# -- standard errors ---------------------------------------------------------------------------------------------


def standard_error(values: np.ndarray) -> float:
    """Compute the standard error of a mean of independent values: s / sqrt(n), with n - 1 in s."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def difference_of_means_error(*samples: np.ndarray) -> float:
    """Compute the standard error of a difference of means of independent samples: sqrt(sum_i s_i² / n_i)."""
    return math.sqrt(sum(float(values.var(ddof=1)) / values.size for values in samples))


def student_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t with so many degrees of freedom: n - 1 for a mean of n values."""
    return float(student.ppf(HIGH, degrees))


def student_reach(values: np.ndarray) -> np.ndarray:
    """Compute half of Student's 95 % interval of the mean along the last axis.

    Shapes:
        values: (..., n), n >= 2 -> (...)
    """
    n = values.shape[-1]
    return student_quantile(n - 1) * values.std(axis=-1, ddof=1) / n**0.5
