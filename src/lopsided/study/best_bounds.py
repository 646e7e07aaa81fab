"""How much worse than the best each method may be: simultaneous upper bounds, from scores by method and seed.

Notation: `k` methods, `S` seeds, `n` rows that all runs answer; x_ms the score of method m with seed s, higher being
better; C[m,s,m',s'] the covariance of x_ms and x_m's' over draws of rows; D_ji = mean_s(x_js - x_is). For a pair (i, j)

    Var(D_ji) = V_rows + (t_i + t_j) / S
    V_rows    = the mean over s != s' of Cov(x_js - x_is, x_js' - x_is'): what the rows add, whatever the seed
    t_m       = the variance of x_ms over seeds on these rows, without what a seed does to all methods alike

are the two parts of a resampling of rows and seeds together. t is pooled over the methods, with (k - 1)(S - 1) degrees
of freedom, since three seeds alone say next to nothing about a variance; a method whose seeds vary far more than those
of the others keeps its own. The bounds are Hsu's:

    u_i = max(0, max_j (D_ji + q_j·sqrt(Var(D_ji))))

P(max_j mu_j - mu_i <= u_i for all i) >= 95 % holds if q_j bounds, at 95 %, all errors of the differences to j at once,
since only the differences to the method that is truly best are needed. With one seed, C is all there is, and mu_m is
what these very runs would score on all rows.

Source:
    Hsu 1984, "Constrained simultaneous confidence intervals for multiple comparisons with the best"; Owen 2007, "The
    pigeonhole bootstrap", arXiv:0712.1111, for rows and seeds together; Cochran 1964, "Approximate significance levels
    of the Behrens-Fisher test", for the quantile of a sum of two estimated variances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import f as fisher
from scipy.stats import norm
from scipy.stats import t as student

from lopsided.study.paired_scores import PairedScores

LEVEL = 0.95
# A method's seeds are its own matter where its F statistic passes this level, shared among the methods.
UNSTABLE = 0.10
DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What makes the differences of methods uncertain.

    Args:
        rows: V_rows of every pair.
        seeds: t of every method; zeros with one seed.
        degrees: the degrees of freedom of each t; infinite with one seed.
        within: of every pair, the part of t_i + t_j that more rows would lower.
        count: S.

    Shapes:
        rows, within: (k, k)
        seeds, degrees: (k,)
    """

    rows: np.ndarray
    seeds: np.ndarray
    degrees: np.ndarray
    within: np.ndarray
    count: int

    @property
    def variance(self) -> np.ndarray:
        """The variance of every difference of means, (k, k); zeros on the diagonal."""
        total: np.ndarray = self.rows + (self.seeds[:, None] + self.seeds[None, :]) / self.count
        np.fill_diagonal(total, 0.0)
        return total


def spread_of(scores: PairedScores, pool: Sequence[int] | None = None) -> Spread:
    """Estimate the variances.

    Args:
        scores: of all methods.
        pool: the methods whose seeds are pooled; all by default. The others are taken to vary as these do.
    """
    k, count = scores.values.shape
    if count == 1:
        return Spread(
            rows=_of_pairs(scores.covariance[:, 0, :, 0]) + scores.least,
            seeds=np.zeros(k),
            degrees=np.full(k, np.inf),
            within=np.zeros((k, k)),
            count=1,
        )
    same = np.einsum("isjs->ij", scores.covariance) / count
    other = (scores.covariance.sum(axis=(1, 3)) - count * same) / (count * (count - 1))
    rows = np.maximum(_of_pairs(other), 0.0)
    within = np.maximum(_of_pairs(same) - rows, 0.0)
    members = np.arange(k) if pool is None else np.array(list(pool))
    seeds, degrees = _seed_variances(scores.values[members])
    pooled = int(np.argmax(degrees))
    every, every_degrees = np.full(k, seeds[pooled]), np.full(k, degrees[pooled])
    every[members], every_degrees[members] = seeds, degrees
    return Spread(rows=rows + scores.least, seeds=every, degrees=every_degrees, within=within, count=count)


def _of_pairs(covariance: np.ndarray) -> np.ndarray:
    """Return the variance of every difference, from the covariance of what is subtracted."""
    own = np.diag(covariance)
    variance: np.ndarray = own[:, None] + own[None, :] - 2 * covariance
    return variance


def _seed_variances(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return t and its degrees of freedom by method: pooled, or a method's own if it varies far more than others."""
    k, count = values.shape
    stable = list(range(k))
    own: dict[int, float] = {}
    # The most unstable one first: it would hide the next one in the pool.
    while len(stable) > 2:
        statistics = {method: _unlike(values, method, stable) for method in stable}
        worst = max(statistics, key=lambda method: statistics[method][0])
        statistic, variance = statistics[worst]
        limit = fisher.ppf(1 - UNSTABLE / k, count - 1, (len(stable) - 2) * (count - 1))
        if statistic <= limit:
            break
        own[worst] = variance
        stable.remove(worst)
    seeds = np.full(k, _interaction(values[stable]))
    degrees = np.full(k, float((len(stable) - 1) * (count - 1)))
    for method, variance in own.items():
        seeds[method], degrees[method] = variance, count - 1.0
    return seeds, degrees


def _unlike(values: np.ndarray, method: int, stable: Sequence[int]) -> tuple[float, float]:
    """Return the F statistic of a method's variance over seeds against the others', and that variance."""
    others = [other for other in stable if other != method]
    variance = float(np.var(values[method] - values[others].mean(axis=0), ddof=1))
    usual = _interaction(values[others]) * (1 + 1 / len(others))
    return (variance / usual if usual > 0 else (np.inf if variance > 0 else 0.0)), variance


def _interaction(values: np.ndarray) -> float:
    """Return the variance over seeds that methods do not share: the residual mean square of methods x seeds."""
    k, count = values.shape
    residual = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return float((residual**2).sum() / ((k - 1) * (count - 1)))


# -- bounds ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the data say of every method against the best.

    Args:
        worse: u, the upper bounds, (k,).
        possible: whether the data leave it possible that the method is the best, (k,).
        chances: the level of a single difference to each method that makes all of them hold at once, (k,).
    """

    worse: np.ndarray
    possible: np.ndarray
    chances: np.ndarray


def bounds_of(scores: PairedScores, spread: Spread, level: float = LEVEL) -> Bounds:
    """Compute all upper bounds, which hold together at the level."""
    means = scores.means
    chances = joint_chances(spread, level)
    # reach[j, i]: how far the difference of i to j may be off, if j is the best.
    reach = reaches(spread, chances)
    upper = means[:, None] - means[None, :] + reach
    behind = means[None, :] - means[:, None] - reach
    for matrix in (upper, behind):
        np.fill_diagonal(matrix, 0.0)
    return Bounds(worse=upper.max(axis=0), possible=behind.max(axis=1) <= 0, chances=chances)


def reaches(spread: Spread, chances: np.ndarray) -> np.ndarray:
    """Return q_j·sqrt(Var(D_ji)) by j and i.

    q is Cochran's: the quantiles of the parts, weighted with their variances. It errs on the safe side.
    """
    quantile = student.ppf(chances[:, None], spread.degrees[None, :])
    parts = spread.seeds / spread.count
    # The part of j by its own degrees of freedom, and that of i by those of i.
    weighted = np.diag(quantile)[:, None] * parts[:, None] + quantile * parts[None, :]
    weighted = weighted + norm.ppf(chances)[:, None] * spread.rows
    deviation = np.sqrt(spread.variance)
    reach: np.ndarray = np.divide(weighted, deviation, out=np.zeros_like(weighted), where=deviation > 0)
    return reach


def joint_chances(spread: Spread, level: float) -> np.ndarray:
    """Return, by method j, the level at which each difference to j is bounded so that all of them hold together.

    The errors of the differences to one method share that method's error. Their joint distribution is drawn, with the
    same normal numbers each time, from the covariance that gives all pairs their variance.
    """
    k = len(spread.seeds)
    if k == 1:
        return np.array([level])
    variance = spread.variance
    # Any covariance with these variances of differences will do: the one of deviations from the mean over methods.
    centred = -0.5 * (variance - variance.mean(0) - variance.mean(1)[:, None] + variance.mean())
    values, vectors = np.linalg.eigh(centred)
    errors = _normal_numbers(k) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    deviation = np.sqrt(variance)
    chances = np.empty(k)
    for j in range(k):
        others = np.flatnonzero((np.arange(k) != j) & (deviation[j] > 0))
        if len(others) == 0:
            chances[j] = level
            continue
        largest = ((errors[:, others] - errors[:, [j]]) / deviation[j, others]).max(axis=1)
        chances[j] = max(level, float(norm.cdf(np.quantile(largest, level))))
    return chances


@lru_cache(maxsize=32)
def _normal_numbers(k: int) -> np.ndarray:
    return np.random.RandomState(0).standard_normal((DRAWS, k))
