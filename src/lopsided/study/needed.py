"""How many seeds or rows would bring the bound of a choice within the margin, by the spread that was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lopsided.study.best_bounds import Bounds, Spread, reaches
from lopsided.study.paired_scores import PairedScores

# Beyond these nobody goes, and the estimate says no more.
MOST_SEEDS, MOST_ROWS = 50, 1_000_000


@dataclass(frozen=True, kw_only=True)
class Needed:
    """A number of seeds and of rows with which the choice would be decided."""

    seeds: int
    rows: int


def needed(scores: PairedScores, spread: Spread, bounds: Bounds, chosen: int, margin: float) -> tuple[Needed, ...]:
    """Return what would decide: more seeds on the same rows, more rows with the same seeds, or else both; or nothing.

    The spread of seeds and of rows is taken to stay as it is. Of another method's distance from the chosen one, only
    what the data show is taken to stay: a lead that may be chance is not counted on. With one seed nothing is known
    about other seeds, and rows alone are counted.
    """
    means = scores.means
    # How far every method is behind the chosen one for certain: as much further its bound may reach.
    sure = np.maximum(means[chosen] - means - _reach(spread, bounds, chosen), 0.0)

    def decides(seeds: int, rows: int) -> bool:
        """Return whether the bound would be within the margin."""
        reach = _reach(_projected(spread, scores.rows, seeds, rows), bounds, chosen)
        return bool((reach - sure).max() <= margin)

    seeds, rows = spread.count, scores.rows
    options = []
    if seeds > 1 and (more := _least(lambda count: decides(count, rows), seeds, MOST_SEEDS)):
        options.append(Needed(seeds=more, rows=rows))
    if more := _least(lambda count: decides(seeds, count), rows, MOST_ROWS):
        options.append(Needed(seeds=seeds, rows=_rounded(more)))
    doubled = seeds
    while not options and 1 < doubled < MOST_SEEDS:
        doubled = min(2 * doubled, MOST_SEEDS)
        if more := _least(lambda count: decides(doubled, count), rows, MOST_ROWS):  # noqa: B023
            options.append(Needed(seeds=doubled, rows=_rounded(more)))
    return tuple(options)


def _reach(spread: Spread, bounds: Bounds, chosen: int) -> np.ndarray:
    """Return how far the difference of the chosen method to each method may be off."""
    reach: np.ndarray = reaches(spread, bounds.chances)[:, chosen]
    reach[chosen] = 0.0
    return reach


def _projected(spread: Spread, n: int, seeds: int, rows: int) -> Spread:
    """Return the spread with other numbers of seeds and rows."""
    share = n / rows
    if spread.count == 1:
        return Spread(**{**vars(spread), "rows": spread.rows * share})
    # Of a method's t the rows' part shrinks with them; half of a pair's is the method's.
    k = len(spread.seeds)
    of_rows = spread.within.sum(axis=1) / (2 * max(1, k - 1))
    own = np.maximum(spread.seeds - of_rows, 0.0)
    return Spread(
        rows=spread.rows * share,
        seeds=own + np.minimum(spread.seeds, of_rows) * share,
        degrees=spread.degrees * (seeds - 1) / (spread.count - 1),
        within=spread.within * share,
        count=seeds,
    )


def _least(decides: Callable[[int], bool], known: int, most: int) -> int | None:
    """Return the least number above `known` that decides, by bisection; None if `most` does not."""
    if not decides(most):
        return None
    low, high = known, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def _rounded(rows: int) -> int:
    """Round up to two digits: the number is an estimate.

    Example:
        >>> _rounded(3412), _rounded(87)
        (3500, 87)
    """
    unit = int(10 ** max(0, math.floor(math.log10(rows)) - 1))
    return math.ceil(rows / unit) * unit
