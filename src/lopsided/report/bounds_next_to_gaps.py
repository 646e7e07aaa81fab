"""Figure: each method's measured generalization gap, and the information bound of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scipy import stats

from lopsided.finite import is_finite
from lopsided.plotting.figure import Axis, Figure, FigureEntry, RunGroup, by_label, mean, rounded, series, view
from lopsided.plotting.words import without
from lopsided.study.leaderboard import Leaderboard


def draw_bounds(group: RunGroup[Leaderboard]) -> Figure | None:
    """Draw a filled mark for the gap and a hollow one for the bound."""
    members = by_label(run for run in group.runs if run.bound is not None)
    cells = {row.label: row.cells["generalization_error"] for row in group.leaderboard.rows}
    # On a logarithmic axis a gap of 0 has no place.
    gap = {label: cell.mean for label, cell in cells.items() if cell.mean}
    means = {label: mean(run.bound for run in runs) for label, runs in members.items() if label in gap}
    bound = {label: value for label, value in means.items() if is_finite(value)}
    labels = sorted(bound, key=lambda label: bound[label])
    if not labels:
        return None
    lacking = [label for label in by_label(run for run in group.runs if run.is_finished) if label not in bound]
    measured = [_interval(label, gap[label], cells[label].half) for label in labels]
    above = [series(label, [bound[label]], [label], name=f"{label}, bound", hollow=True) for label in labels]
    return Figure(
        key=f"{group.key}-bounds",
        kind="intervals",
        title="Bound next to measured gap",
        shows=without(
            "The filled mark is the measured |test loss − train loss| with its 95 % interval, which runs to the edge "
            "if it holds zero; the hollow one is the information bound, with σ estimated from the test losses: no "
            "guarantee.",
            lacking,
            "a gap and a bound",
        ),
        means=bounds_meaning({label: gap[label] for label in labels}, bound),
        views=[view("", Axis(title="nats per prediction", log=True), Axis(title="method"), measured + above)],
    )


def bounds_meaning(measured: Mapping[str, float], bound: Mapping[str, float]) -> str:
    """Return what the bounds mean for choosing a method, from each method's gap and bound."""
    ratios = [bound[label] / measured[label] for label in measured]
    far = f"The bounds lie {_times(min(ratios))} to {_times(max(ratios))} times above the gaps"
    if len(ratios) == 1:
        return f"The bound lies {_times(ratios[0])} times above the gap, and says nothing of other methods."
    if len(ratios) < 3:
        return f"{far}; two methods are too few to tell whether they order methods as the gaps do."
    agreement = stats.spearmanr([bound[label] for label in measured], list(measured.values())).statistic
    # NaN: a correlation with a constant is not defined.
    if agreement != agreement:
        return f"{far} and are equal for all methods, so they do not help to choose."
    if agreement > 0.5:
        return f"{far}, and order the methods much as the gaps do (rank correlation {agreement:.2f}): read the order."
    return f"{far}, and don't order the methods as the gaps do (rank correlation {agreement:.2f}): don't choose by it."


def _interval(label: str, value: float, half: float | None) -> dict[str, Any]:
    ends = {} if half is None else {"low": rounded([value - half]), "high": rounded([value + half])}
    return series(label, [value], [label], name=f"{label}, measured", **ends)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


FIGURE = FigureEntry(draw=draw_bounds, place=20)
