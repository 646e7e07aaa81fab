"""Figures over several runs, with the 95 % intervals by which ranges are judged.

Notation: k of n trials, values x_1 … x_n of independent runs with mean x̄ and deviation s (n - 1 in its denominator).
Student's interval is x̄ ± t·s/√n, with t its 0.975 quantile at n - 1 degrees of freedom.

A figure that could not be computed is NaN with a reason, and makes NaN of every figure that it is a part of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, binom

from lopsided.lab.protocol import Measured
from lopsided.stats import student_quantile, student_reach

ONE_RUN = "one run has no interval"


def over_seeds(values: ArrayLike) -> Measured:
    """Return the mean of independent runs, with Student's 95 % interval where there are two or more.

    Shapes:
        values: (runs,)
    """
    runs = np.asarray(values, dtype=np.float64)
    if bad := int((~np.isfinite(runs)).sum()):
        return Measured(value=np.nan, why=f"{bad} of {len(runs)} runs have no finite figure")
    mean = float(runs.mean())
    if len(runs) < 2:
        return Measured(value=mean, why=ONE_RUN)
    reach = float(student_reach(runs))
    return Measured(value=mean, interval=(mean - reach, mean + reach))


def share(successes: ArrayLike) -> Measured:
    """Return the share of independent trials that succeeded, with the exact binomial 95 % interval.

    Student's interval would have no width where all trials agree, however few they are: n of n has (0.025^(1/n), 1).

    Shapes:
        successes: (trials,), true or false.

    Source:
        Clopper and Pearson 1934.

    Example:
        >>> [round(end, 3) for end in share([True] * 40).interval]
        [0.912, 1.0]
    """
    trials = np.asarray(successes, dtype=bool)
    n, k = len(trials), int(trials.sum())
    if n == 0:
        return Measured(value=np.nan, why="there were no trials")
    low = float(beta.ppf(0.025, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return Measured(value=k / n, interval=(low, high))


def quantile(values: ArrayLike, q: float) -> Measured:
    """Return a quantile over runs, with the distribution-free 95 % interval between two order statistics.

    With too few runs for one of its ends there is no interval: the 0.9 quantile takes 36.

    Shapes:
        values: (runs,)

    Source:
        David and Nagaraja 2003, Order Statistics, section 7.1.
    """
    runs = np.sort(np.asarray(values, dtype=np.float64))
    if np.isnan(runs).any():
        return Measured(value=np.nan, why=f"{int(np.isnan(runs).sum())} of {len(runs)} runs have no figure")
    n = len(runs)
    # How many of n runs lie under the quantile is binomial; these are the ranks, from 1, of the interval's ends.
    first, last = int(binom.ppf(0.025, n, q)), int(binom.ppf(0.975, n, q)) + 1
    value = float(np.quantile(runs, q))
    if first < 1 or last > n:
        return Measured(value=value, why=f"{n} runs are too few for an interval of the {q:g} quantile")
    return Measured(value=value, interval=(float(runs[first - 1]), float(runs[last - 1])))


def largest(figures: Sequence[Measured]) -> Measured:
    """Return the largest of several figures.

    The ends of its interval are the largest of the figures' ends, which is wide rather than narrow.
    """
    values = [figure.value for figure in figures]
    # NumPy's maximum is NaN where one of the values is; Python's depends on their order.
    value = float(np.max(values))
    if np.isnan(value):
        return Measured(value=value, why=next(f.why for f in figures if np.isnan(f.value)))
    intervals = [figure.interval for figure in figures if figure.interval is not None]
    if len(intervals) < len(figures):
        return Measured(value=value, why=next(figure.why for figure in figures if figure.interval is None))
    return Measured(value=value, interval=(max(low for low, _ in intervals), max(high for _, high in intervals)))


def least(figures: Sequence[Measured]) -> Measured:
    """Return the least of several figures, as `largest` returns the largest."""
    return scaled(largest([scaled(figure, -1.0) for figure in figures]), -1.0)


def scaled(figure: Measured, factor: float) -> Measured:
    """Return the figure and its interval times a number."""
    if figure.interval is None:
        return Measured(value=factor * figure.value, why=figure.why)
    low, high = sorted(factor * end for end in figure.interval)
    return Measured(value=factor * figure.value, interval=(low, high), why=figure.why)


def largest_mean(values: np.ndarray) -> Measured:
    """Return the largest mean over runs among many points, with the largest ends of the points' intervals.

    Shapes:
        values: (points, runs)
    """
    means, reach = mean_and_reach(values)
    value = float(np.max(means))
    if not np.isfinite(value):
        return Measured(value=np.nan, why="some runs have no finite figure")
    if reach is None:
        return Measured(value=value, why=ONE_RUN)
    return Measured(value=value, interval=(float(np.max(means - reach)), float(np.max(means + reach))))


def mean_and_reach(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return means over runs and half the widths of Student's 95 % intervals; None for these with one run.

    Shapes:
        values: (points, runs) -> two of (points,)
    """
    if values.shape[1] < 2:
        return values.mean(axis=1), None
    return values.mean(axis=1), student_reach(values)


def slope(x: ArrayLike, y: ArrayLike) -> Measured:
    """Return the least-squares slope of ln y over ln x, with Student's 95 % interval: the exponent of a power law.

    Two points of one run have no interval. A value that is not positive has no logarithm, and then there is no slope.

    Shapes:
        x: (points,), y: (points,) or (runs, points), all positive; with runs, the mean and interval of their slopes.
    """
    logs = np.log(np.asarray(x, dtype=np.float64))
    heights = np.asarray(y, dtype=np.float64)
    if bad := int((~(heights > 0)).sum()):
        return Measured(value=np.nan, why=f"{bad} of {heights.size} points are not positive, and have no logarithm")
    values, centred = np.log(heights), logs - logs.mean()
    if values.ndim == 2:
        return over_seeds(values @ centred / (centred @ centred))
    exponent = float(values @ centred / (centred @ centred))
    if len(logs) < 3:
        return Measured(value=exponent, why="two points have no interval")
    residuals = values - values.mean() - exponent * centred
    # The slope's standard error; two degrees of freedom went into the line.
    error = float((residuals @ residuals / (len(logs) - 2) / (centred @ centred)) ** 0.5)
    reach = student_quantile(len(logs) - 2) * error
    return Measured(value=exponent, interval=(exponent - reach, exponent + reach))
