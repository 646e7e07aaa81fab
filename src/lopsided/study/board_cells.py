"""One cell of a leaderboard: the mean over a method's seeds, its intervals, and whether two methods tie.

Two methods are *tied* in a column if the data cannot tell them apart: with one seed, if their difference is within two
standard errors of that difference; with several seeds, if a paired 95 % t-interval over seeds holds zero. Figures
without sampling error tie only when equal. A figure that could not be computed does not compete, and its cell says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import stats

from lopsided.finite import finite_or_none
from lopsided.runs import Estimate, Run
from lopsided.stats import HIGH, standard_error, student_quantile
from lopsided.study.columns import Column

# The reason in a cell of a column that concerns other methods of the table.
NOT_OF_THIS_RUN = "this run does not have it"
PLACES = 3


@dataclass(frozen=True, kw_only=True)
class BoardCell:
    """One figure of one method.

    Args:
        mean: over seeds; None where it could not be computed, and where the column does not concern the method.
        se: the standard error of the mean: over seeds, or with one seed that of the run's own figure.
        half: half the 95 % interval; None for a figure without sampling error, such as a count.
        mark: "best", or "tied" if the data cannot tell it from the best; None for all others and for the floor.
        rank: 1 for the best mean of a column, 2 and 3 for the next ones.
        difference: to the best mean.
        why: the reason why "mean" or "se" is missing, where there should be one.
    """

    mean: float | None = None
    se: float | None = None
    half: float | None = None
    mark: Literal["best", "tied"] | None = None
    rank: int | None = None
    difference: float | None = None
    why: Mapping[str, str] = field(default_factory=dict)


def cell_of(column: Column, runs: Sequence[Run]) -> BoardCell | None:
    """Return mean and standard error over a method's seeds; None where the column does not concern these runs.

    A seed without a figure leaves the method without a mean: that of the other seeds would flatter it.
    """
    estimates = [column.figure(run) for run in runs]
    if not any(_concerns(estimate) for estimate in estimates):
        return None
    values = _finite_values(estimates)
    if len(values) < len(runs):
        return BoardCell(why={"mean": _without_mean(estimates)})
    if len(runs) == 1:
        se, reason = finite_or_none(_part(estimates[0], "se")), _reason(estimates[0], "se")
        return BoardCell(mean=values[0], se=se, half=_half(se, 1), why={"se": reason} if se is None and reason else {})
    se = standard_error(np.array(values))
    return BoardCell(mean=float(np.mean(values)), se=se, half=_half(se, len(runs)))


def tied(column: Column, best: Sequence[Run], other: Sequence[Run]) -> bool:
    """Return whether the data cannot tell `other` from `best`, by the seeds that both have; True without any."""
    by_seed = {run.seed: run for run in other}
    pairs = [(run, by_seed[run.seed]) for run in best if run.seed in by_seed]
    if not pairs:
        return True
    values = [_finite_values([column.figure(run) for run in pair]) for pair in pairs]
    differences = [first - second for first, second in values]
    if len(pairs) == 1:
        se = finite_or_none(column.difference_se(*pairs[0]))
        return se is None or abs(differences[0]) <= 2.0 * se
    spread = standard_error(np.array(differences))
    return abs(float(np.mean(differences))) <= student_quantile(len(differences) - 1) * spread


def ranked(column: Column, cells: Mapping[str, BoardCell], runs: Mapping[str, Sequence[Run]]) -> dict[str, BoardCell]:
    """Return the cells of a column with marks, places and differences to the best.

    Of equal means the first in order is the best. A method without a figure keeps its cell.

    Args:
        cells: of the methods that compete, by label.
        runs: of each label.
    """
    means = {label: cell.mean for label, cell in cells.items() if cell.mean is not None}
    if not means:
        return dict(cells)
    best = min(means, key=lambda label: column.sign * means[label])
    places = dict(cells)
    for label, mean in means.items():
        better = sum(column.sign * other < column.sign * mean for other in means.values())
        mark: Literal["best", "tied"] | None = "best" if label == best else None
        if label != best and tied(column, runs[best], runs[label]):
            mark = "tied"
        rank = better + 1 if better < PLACES else None
        places[label] = replace(cells[label], mark=mark, rank=rank, difference=mean - means[best])
    return places


def _half(se: float | None, seeds: int) -> float | None:
    """Return half the 95 % interval: Student's over seeds; with one seed, from the rows that it was tested on."""
    if se is None:
        return None
    quantile = stats.norm.ppf(HIGH) if seeds == 1 else student_quantile(seeds - 1)
    # There is no interval around what has no sampling error.
    return float(quantile) * se or None


def _concerns(estimate: Estimate | None) -> bool:
    return finite_or_none(_part(estimate, "value")) is not None or bool(_reason(estimate, "value"))


def _part(estimate: Estimate | None, name: Literal["value", "se"]) -> float | None:
    if estimate is None:
        return None
    return estimate.value if name == "value" else estimate.se


def _reason(estimate: Estimate | None, name: Literal["value", "se"]) -> str:
    """Return why a figure or its error is missing; "" where it is there, and where there should be none."""
    part = _part(estimate, name)
    if estimate is None or finite_or_none(part) is not None:
        return ""
    return estimate.why.get(name, "" if part is None else f"it is {part}")


def _without_mean(estimates: Sequence[Estimate | None]) -> str:
    lacking = [estimate for estimate in estimates if finite_or_none(_part(estimate, "value")) is None]
    reason = _reason(lacking[0], "value") or "not in its record"
    if len(estimates) == 1:
        return reason
    return f"{len(lacking)} of {len(estimates)} seeds have no figure: {reason}"


def _finite_values(estimates: Sequence[Estimate | None]) -> list[float]:
    values = (finite_or_none(_part(estimate, "value")) for estimate in estimates)
    return [value for value in values if value is not None]
