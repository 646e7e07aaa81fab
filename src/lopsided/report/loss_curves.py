"""Figure: training and validation loss over the steps, of all methods, and of each method's seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lopsided.plotting.figure import (
    Axis,
    DrawnRun,
    Figure,
    FigureEntry,
    RunGroup,
    by_label,
    mean_curve,
    part_of,
    series,
    view,
)
from lopsided.plotting.words import joined

Split = Literal["train", "validation"]
STEP, LOSS = Axis(title="step"), Axis(title="loss")


def draw_losses(group: RunGroup[object]) -> Figure | None:
    """Draw the means of all methods, and each method's seeds, with the links of a chain marked."""
    members = by_label(run for run in group.runs if run.validation or run.train)
    if not members:
        return None
    views = []
    splits: tuple[Split, Split] = ("validation", "train")
    for split in splits:
        curves = [curve for label, runs in members.items() if (curve := _mean_loss(label, runs, split))]
        if curves:
            views.append(view(f"all methods, {split}", STEP, LOSS, curves))
    best: dict[str, tuple[float, int, bool]] = {}
    for label, runs in members.items():
        views.append(view(f"{label}, every seed (dotted: train)", STEP, LOSS, _of_every_seed(label, runs)))
        if lowest := _lowest(runs):
            best[label] = lowest
    return Figure(
        key=f"{group.key}-losses",
        kind="lines",
        title="Loss curves",
        shows=losses_caption(any(run.boundaries for runs in members.values() for run in runs)),
        means=losses_meaning(best),
        choose="curves",
        views=views,
    )


def losses_caption(chained: bool) -> str:
    """Return what the figure shows; `chained` says whether any run has links."""
    links = "; small bars on a line mark where its chain began a new link" if chained else ""
    return f"The loss over the steps, the mean over seeds or every seed of one method{links}."


def losses_meaning(best: Mapping[str, tuple[float, int, bool]]) -> str:
    """Return what the curves mean for choosing a method.

    Args:
        best: each method's lowest validation loss, its step, and whether that was the last step.
    """
    if not best:
        return "No run was evaluated while it trained, so the curves do not help to choose."
    first = min(best, key=lambda label: best[label][0])
    low = f"{first} came to the lowest validation loss ({best[first][0]:.3f} at step {best[first][1]})"
    falling = [label for label, (_, _, last) in best.items() if last]
    if len(falling) == len(best):
        return f"{low}; every method was still improving at its last step, so more steps may change the order."
    if not falling:
        return f"{low}; every method was past its best before the end, so more steps won't help."
    if len(falling) > 4:
        return f"{low}; {len(falling)} of {len(best)} methods were still improving at their last step."
    return f"{low}; more steps may still help {joined(falling)}."


def _of_every_seed(label: str, runs: Sequence[DrawnRun]) -> list[dict[str, Any]]:
    curves = []
    for run in runs:
        for split, points in (("train", run.train), ("validation", run.validation)):
            x, y = _columns(points)
            name = f"{split}, seed {run.seed}"
            curves.append(series(label, x, y, name=name, dash=split == "train", marks=list(run.boundaries)))
    return curves


def _columns(points: Sequence[Sequence[Any]]) -> tuple[list[Any], list[Any]]:
    return [x for x, _ in points], [y for _, y in points]


def _mean_loss(label: str, runs: Sequence[DrawnRun], split: Split) -> dict[str, Any] | None:
    """The mean over seeds; the name says of how many, where some were evaluated at other steps than the first."""
    recorded = [run.validation if split == "validation" else run.train for run in runs]
    curves = [_columns(points) for points in recorded if points]
    if not curves:
        return None
    steps = curves[0][0]
    alike = [y for x, y in curves if x == steps]
    name = label + part_of(len(alike), len(runs), "seeds")
    return series(label, steps, mean_curve(alike), name=name, marks=list(runs[0].boundaries))


def _lowest(runs: Sequence[DrawnRun]) -> tuple[float, int, bool] | None:
    """The lowest mean validation loss, its step, and whether that was the last one."""
    curve = _mean_loss("", runs, "validation")
    points = [] if curve is None else [(y, x) for x, y in zip(curve["x"], curve["y"]) if y is not None]
    if not points:
        return None
    loss, step = min(points)
    return loss, step, step == points[-1][1]


FIGURE = FigureEntry(draw=draw_losses, place=40)
