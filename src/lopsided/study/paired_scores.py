"""Scores of several methods on the same rows with the same seeds, and how they vary together over draws of rows.

Scores are in *points*, higher being better: hundredths of a score (percentage points of an accuracy, 0.01 of a
correlation), and for a perplexity, whose scale is the task's own, percent of it, as 100 times its logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lopsided.runs import Run
from lopsided.tasks import Metric, get_metric
from lopsided.tasks.metrics import SHARED
from lopsided.tasks.score_functions import SCORES, Undefined

# More parts would make the covariances more precise than a decision needs: their error is 10 % at 200.
PARTS = 200


@dataclass(frozen=True, kw_only=True)
class Points:
    """How a score becomes points.

    Args:
        of_score: points of a score, before the direction is taken into account.
        one, many: what a difference of points is called.
    """

    of_score: Callable[[float], float] = lambda score: 100 * score
    one: str = "point"
    many: str = "points"

    def text(self, points: float) -> str:
        """Write a difference.

        Example:
            >>> Points().text(1.0), Points().text(0.83)
            ('1 point', '0.83 points')
        """
        number = f"{points:.2g}" if abs(points) < 0.95 else f"{points:.1f}".removesuffix(".0")
        return f"{number} {self.one if number == '1' else self.many}"


# By the unit of the score; the others are in hundredths.
POINTS = {"perplexity": Points(of_score=lambda score: 100 * math.log(score), one="%", many="%")}


def points_of(metric: str) -> Points:
    """Return how scores of this metric become points; a run may have been made where more metrics are registered."""
    return POINTS.get(SCORES[metric].unit, Points()) if metric in SCORES else Points()


@dataclass(frozen=True, kw_only=True)
class PairedScores:
    """Scores of methods on the same rows with the same seeds.

    Args:
        values: x_ms, the score of method m with seed s, in points, higher being better.
        covariance: C[m,s,m',s'], of x_ms and x_m's' over draws of rows.
        rows: n, what is drawn.
        least: what is added to the variance of every difference, so that rows on which methods happen to agree do not
            pass for certainty: that of half a row more that only the one answers rightly, and half a row more that only
            the other does.

    Shapes:
        values: (k, S)
        covariance: (k, S, k, S)

    Source:
        Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions", for the two
        half rows.
    """

    values: np.ndarray
    covariance: np.ndarray
    rows: int
    least: float = 0.0

    @property
    def means(self) -> np.ndarray:
        """The means over seeds, (k,)."""
        mean: np.ndarray = self.values.mean(axis=1)
        return mean

    def of(self, methods: Sequence[int]) -> PairedScores:
        """Return the scores of some of the methods."""
        index = list(methods)
        return replace(self, values=self.values[index], covariance=self.covariance[index][:, :, index])


def share_scores(right: np.ndarray) -> PairedScores:
    """Return the shares of rows that methods answer correctly; the covariances have a closed form, Cov(y, y') / n.

    Shapes:
        right: (k, S, n), of truth values.
    """
    k, count, n = right.shape
    centred = right.reshape(k * count, n) * 100.0
    values = centred.mean(axis=1)
    centred -= values[:, None]
    return PairedScores(
        values=values.reshape(k, count),
        covariance=(centred @ centred.T / n**2).reshape(k, count, k, count),
        rows=n,
        least=(100 / n) ** 2,
    )


def jackknifed_scores(score: Callable[[int, np.ndarray], float], shape: tuple[int, int], n: int) -> PairedScores:
    """Return scores with the covariances of a jackknife that leaves out one of `PARTS` random parts at a time.

    Args:
        score: the points of a run, by its number, on some of the rows.
        shape: (k, S); runs are numbered method by method.
        n: the number of rows.

    Raises:
        Undefined: if a part's absence leaves a score undefined.

    Source:
        Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 11.
    """
    runs = range(shape[0] * shape[1])
    values = np.array([score(run, np.arange(n)) for run in runs])
    parts = np.array_split(np.random.RandomState(0).permutation(n), min(n, PARTS))
    kept = np.ones(n, bool)
    left = np.empty((len(parts), len(values)))
    for number, part in enumerate(parts):
        kept[part] = False
        index = np.flatnonzero(kept)
        left[number] = [score(run, index) for run in runs]
        kept[part] = True
    centred = left - left.mean(axis=0)
    covariance = centred.T @ centred * (len(parts) - 1) / len(parts)
    return PairedScores(values=values.reshape(shape), covariance=covariance.reshape(*shape, *shape), rows=n)


def paired_scores(metric: str, runs: Sequence[Sequence[Run]], split: str = "test") -> PairedScores:
    """Return the scores of runs on a split.

    Args:
        metric: the name of the task's metric.
        runs: by method, those of the same seeds in the same order.
        split: the rows that all of them answered.

    Raises:
        Undefined: if the rows do not define the scores or their covariances; the text says why.
    """
    if metric not in SCORES:
        raise Undefined(f"the metric {metric} is not registered here")
    entry = get_metric(metric)
    rows = [run.predictions[split] for members in runs for run in members]
    _check_same(rows)
    units = [entry.units(answers) for answers in rows]
    n, shape = len(next(iter(units[0].values()))), (len(runs), len(runs[0]))
    if n < 2:
        raise Undefined(f"one {'prompt' if 'prompt' in entry.entry.reads else 'row'} has no standard error")
    if entry.entry.is_share:
        return share_scores(np.stack([each["prediction"] == each["label"] for each in units]).reshape(*shape, n))
    return jackknifed_scores(_points_of_units(entry, units), shape, n)


def _points_of_units(metric: Metric, units: Sequence[Mapping[str, np.ndarray]]) -> Callable[[int, np.ndarray], float]:
    points, sign = points_of(metric.name), 1.0 if metric.greater_is_better else -1.0

    def score(run: int, index: np.ndarray) -> float:
        """Return the points of a run on some of its units."""
        return sign * points.of_score(metric.of_units({name: array[index] for name, array in units[run].items()}))

    return score


def _check_same(rows: Sequence[Mapping[str, np.ndarray]]) -> None:
    for name in SHARED:
        first = rows[0].get(name)
        if any((first is None) != (name not in each) for each in rows):
            raise Undefined(f"the runs were not tested alike: not all of them recorded {name!r}")
        if first is not None and not all(np.array_equal(first, each[name]) for each in rows):
            raise Undefined(f"the runs were tested on different rows: {name!r} differs")
