"""Which method to take, and how much worse than the best it may be: a rule on the rows of a leaderboard.

1. A method is *named* only if it beats the floor, the frozen features: its lead is beyond the bound at 95 %, and beyond
   the normal quantile of 99.99 % times its standard error, both jointly over the methods. To name a method that
   training made worse is the costliest mistake. (Student's quantile of 99.99 % would be 71 with three seeds of one
   method.)
2. u bounds, at 95 %, how much worse than the best method a method is (`best_bounds`), in points (`paired_scores`).
3. Of the methods that may be named and whose u is at most the margin, the cheapest to train is taken: it is *decided*.
   Where there is none, the best mean is taken with its u, and it is not decided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import norm

from lopsided.study.best_bounds import Bounds, Spread, bounds_of, reaches, spread_of
from lopsided.study.board_rows import Row
from lopsided.study.columns import SCORE
from lopsided.study.needed import Needed, needed
from lopsided.study.paired_scores import PairedScores, paired_scores, points_of
from lopsided.tasks.score_functions import Undefined

# Among equals the cheapest is taken: fewest trained numbers, then least memory. Not the faster step: its time is a
# by-product of trainings that ran one after the other.
COSTS = ("trained_parameters", "kept_bytes")
MARGIN = 1.0
FLOOR_LEVEL, FLOOR_NORMAL_LEVEL = 0.95, 0.9999


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the scores of a leaderboard decide.

    Args:
        metric: the name of the task's metric, which says what a point is.
        margin: m, in points.
        chosen: the method; None where no method beats the floor, or no bound can be given.
        u: how many points worse than the best it is at most, at 95 %; None where there is no second method.
        within: the methods that may be taken: they beat the floor, and their own bound is within the margin.
        possible: the methods that the data do not show to be worse than another.
        needed: what would decide, where it is not decided.
        floor: the method that sets the floor; None where there is none.
        beats_floor: whether a method beats it; None where there is none, or the data cannot say.
        seeds: those that were used: what all methods have in common.
        left_out: whether a method has other seeds besides.
        rows: on how many test rows, or prompts.
        why: why no bound can be given; "" where one is.
    """

    metric: str
    margin: float
    chosen: str | None = None
    u: float | None = None
    within: tuple[str, ...] = ()
    possible: tuple[str, ...] = ()
    needed: tuple[Needed, ...] = ()
    floor: str | None = None
    beats_floor: bool | None = None
    seeds: tuple[int, ...] = ()
    left_out: bool = False
    rows: int | None = None
    why: str = ""

    @property
    def decided(self) -> bool:
        """Whether the chosen method is within the margin of the best."""
        return self.chosen is not None and self.u is not None and self.u <= self.margin

    def to_json(self) -> dict[str, Any]:
        """Return what results.json and the page's figures say of it, without the sentences."""
        return {
            "chosen": self.chosen,
            "u": self.u,
            "unit": points_of(self.metric).many,
            "margin": self.margin,
            "decided": self.decided,
            "within": list(self.within),
            "possible": list(self.possible),
            "needed": [{"seeds": option.seeds, "rows": option.rows} for option in self.needed],
            "floor": self.floor,
            "beats_floor": self.beats_floor,
            "seeds": list(self.seeds),
            "rows": self.rows,
            "why": self.why,
        }


def decide(rows: Sequence[Row], margin: float = MARGIN) -> Decision:
    """Apply the rule to the rows of one leaderboard.

    Args:
        rows: in order of precedence; those without a score take no part.
        margin: in points.
    """
    scored = [row for row in rows if has_figure(row, SCORE)]
    methods, floors = [row for row in scored if not row.floor], [row for row in scored if row.floor]
    if not methods:
        return Decision(metric=rows[0].runs[0].task.metric if rows else "", margin=margin)
    task = methods[0].runs[0].task
    sign = 1.0 if task.greater_is_better else -1.0
    # Were there several floors, the best one would be the one to beat.
    floor = max(floors, key=lambda row: sign * mean_of(row, SCORE), default=None)
    name = None if floor is None else floor.label
    try:
        seeds, scores = _evidence(methods)
        able = list(range(len(methods))) if floor is None else _above(floor, methods)
    except Undefined as error:
        return Decision(metric=task.metric, margin=margin, floor=name, why=str(error))
    decision = Decision(
        metric=task.metric,
        margin=margin,
        floor=name,
        beats_floor=None if floor is None else bool(able),
        seeds=seeds,
        left_out=any(set(row.seeds) != set(seeds) for row in methods),
        rows=scores.rows,
    )
    return _chosen(decision, methods, scores, able)


def has_figure(row: Row, key: str) -> bool:
    """Return whether a row has a mean in a column."""
    return key in row.cells and row.cells[key].mean is not None


def mean_of(row: Row, key: str) -> float:
    """Return a row's mean in a column that it has one in."""
    mean = row.cells[key].mean
    assert mean is not None, f"{row.label} has no {key}"
    return mean


def _chosen(decision: Decision, methods: Sequence[Row], scores: PairedScores, able: Sequence[int]) -> Decision:
    """The decision with the method that is taken of those that may be named, and its bound."""
    labels = [row.label for row in methods]
    if len(methods) == 1:
        return replace(decision, chosen=labels[0] if able else None, possible=tuple(labels))
    verdict = choose(scores, able, partial(_cheapest, methods), decision.margin)
    chosen = verdict.chosen
    return replace(
        decision,
        chosen=None if chosen is None else labels[chosen],
        u=None if chosen is None else float(verdict.bounds.worse[chosen]),
        within=tuple(labels[number] for number in verdict.within),
        possible=tuple(label for label, may_be in zip(labels, verdict.bounds.possible) if may_be),
        needed=() if chosen is None or verdict.within else verdict.needed(scores, decision.margin),
    )


def _cheapest(methods: Sequence[Row], within: Sequence[int]) -> int:
    rows = [methods[number] for number in within]
    # Costs are compared as far as all of these methods have the figure.
    costs = [key for key in COSTS if all(has_figure(row, key) for row in rows)]
    # Of methods with equal parts the first: the noise of their step times is no reason to take another.
    labels = {row.label for row in rows}
    firsts = [number for number, row in zip(within, rows) if row.same_as not in labels]
    return min(firsts, key=lambda number: [mean_of(methods[number], key) for key in costs])


def _evidence(rows: Sequence[Row]) -> tuple[tuple[int, ...], PairedScores]:
    """The seeds that all rows have, and the scores of these runs."""
    seeds = tuple(seed for seed in rows[0].seeds if all(seed in row.seeds for row in rows))
    if not seeds:
        raise Undefined("the methods have no seed in common")
    by_seed = [{run.seed: run for run in row.runs} for row in rows]
    return seeds, paired_scores(rows[0].runs[0].task.metric, [[runs[seed] for seed in seeds] for runs in by_seed])


def _above(floor: Row, methods: Sequence[Row]) -> list[int]:
    """The methods that beat the floor, by the seeds that it has in common with all of them."""
    _, joint = _evidence([*methods, floor])
    return above_floor(joint)


# -- the rule, on numbered methods ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rule says of numbered methods.

    Args:
        chosen: the method that is taken; None if none may be named.
        within: those that may be named, and whose bound is within the margin.
    """

    chosen: int | None
    within: tuple[int, ...]
    bounds: Bounds
    spread: Spread

    def needed(self, scores: PairedScores, margin: float) -> tuple[Needed, ...]:
        """Return what would bring the bound of the chosen one within the margin."""
        return () if self.chosen is None else needed(scores, self.spread, self.bounds, self.chosen, margin)


def choose(
    scores: PairedScores, able: Sequence[int], cheapest: Callable[[Sequence[int]], int], margin: float
) -> Verdict:
    """Apply steps 2 and 3 of the rule.

    Args:
        scores: of two methods or more.
        able: the methods that may be named, by step 1.
        cheapest: picks one of some methods.
        margin: in points.
    """
    spread = spread_of(scores)
    bounds = bounds_of(scores, spread)
    within = tuple(number for number in able if bounds.worse[number] <= margin)
    chosen = None
    if within:
        chosen = cheapest(within)
    elif able:
        # Of equal means the first in order is the best, as in the table.
        chosen = max(able, key=lambda number: float(scores.means[number]))
    return Verdict(chosen=chosen, within=within, bounds=bounds, spread=spread)


def above_floor(scores: PairedScores) -> list[int]:
    """Return the methods that beat the floor, by step 1 of the rule.

    Args:
        scores: of the methods, and of the floor as the last one.
    """
    k = len(scores.values) - 1
    # The head's own seeds say less about how adapters vary than those of the adapters do.
    spread = spread_of(scores, pool=range(k) if k > 1 else None)
    # Bonferroni's levels: draws would not tell so high ones.
    single, normal = (1 - (1 - level) / k for level in (FLOOR_LEVEL, FLOOR_NORMAL_LEVEL))
    reach = reaches(spread, np.full(k + 1, single))[k]
    reach = np.maximum(reach, norm.ppf(normal) * np.sqrt(spread.variance[k]))
    lead = scores.means - scores.means[k] - reach
    return [number for number in range(k) if lead[number] > 0]
