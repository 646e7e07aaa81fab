"""Figure: each method's validation score over the learning rates that were tried."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lopsided.finite import is_finite
from lopsided.plotting.figure import Axis, DrawnRate, Figure, FigureEntry, RunGroup, series, view
from lopsided.plotting.words import joined
from lopsided.study.columns import SCORE, Column
from lopsided.study.leaderboard import Leaderboard

# In points of the score: rates that are that near to the best one work as well.
NEAR = 1.0


def draw_rates(group: RunGroup[Leaderboard]) -> Figure | None:
    """Draw a line per method over its trials; None where no rates were tried, or no run has a score."""
    column = next((column for column in group.leaderboard.columns if column.key == SCORE), None)
    if column is None or not group.rates:
        return None
    best_first = list(dict.fromkeys(run.label for run in group.runs if run.label in group.rates))
    title = column.title.replace("test ", "validation ", 1)
    lines = [
        series(label, [trial.rate for trial in group.rates[label]], [trial.score for trial in group.rates[label]])
        for label in best_first
    ]
    return Figure(
        key=f"{group.key}-rates",
        kind="lines",
        title="Scores over learning rates",
        shows=(
            f"Each line is one method's {title} over the learning rates that were tried, one trial for each, and its "
            "runs have the best of them; a gap is a trial without a figure."
        ),
        means=rates_meaning({label: near_the_best(group.rates[label], column) for label in best_first}),
        views=[view("", Axis(title="learning rate", log=True), Axis(title=title), lines)],
    )


def near_the_best(trials: Sequence[DrawnRate], column: Column) -> tuple[int, int]:
    """Return how many of a method's rates are within `NEAR` points of its best one, and how many were tried."""
    points = [-column.sign * _points(trial.score, column) for trial in trials if is_finite(trial.score)]
    return sum(max(points) - each <= NEAR + 1e-9 for each in points), len(trials)


def _points(score: float, column: Column) -> float:
    # Perplexity has no upper end: a point is a percent of it.
    return 100 * (math.log(score) if column.unit == "perplexity" else score)


def rates_meaning(near: Mapping[str, tuple[int, int]]) -> str:
    """Return what the lines mean for choosing a method.

    Args:
        near: by method, how many of its rates are near its best one, and how many were tried.
    """
    counted = joined([f"{label} {count} of {tried}" for label, (count, tried) in near.items()])
    text = f"Within {NEAR:g} point of its best each method has this many of its rates: {counted}"
    narrow = [label for label, (count, _) in near.items() if count == 1]
    if not narrow:
        return f"{text}; none works at one rate only, so a rate that is somewhat off costs little."
    which = "each of them" if len(narrow) == len(near) else joined(narrow)
    return f"{text}; for {which} only one rate works, and it has to be found again for every task and model."


FIGURE = FigureEntry(draw=draw_rates, place=15)
