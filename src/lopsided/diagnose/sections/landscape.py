"""Section: a finished run's loss around its weights, on validation rows, and how sharply it rises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from lopsided.curvature.batches import Batch, Loss, model_loss
from lopsided.curvature.hessian import hessian_top
from lopsided.diagnose.directions import (
    Directions,
    plane_parameters,
    random_directions,
    trajectory_directions,
    transposed_names,
)
from lopsided.diagnose.loss_grid import landscape
from lopsided.diagnose.section import Headline, Need, Section
from lopsided.diagnose.section_inputs import SectionInputs
from lopsided.diagnose.section_progress import Step
from lopsided.diagnose.sharpness import largest_increase, sharpness_json
from lopsided.errors import LopsidedError
from lopsided.formatting import number_text
from lopsided.plotting.figure import DrawnRun, Figure, FigureEntry, RunGroup, by_label, diagnosed, mean, rounded
from lopsided.plotting.words import without
from lopsided.runs.evaluated_rows import sample_rows
from lopsided.runs.inputs import Data
from lopsided.runs.trajectory import snapshots
from lopsided.settings import check_settings, documented
from lopsided_settings.diagnose import LandscapeSettings

Result = TypeVar("Result")

SPLIT = "validation"
# How much further than its path a landscape reaches.
ROOM = 1.5
# The most steps of either search; how many forward passes a gradient and a product with the Hessian cost.
ASCENT, LANCZOS = 10, 30
GRADIENT, PRODUCT = 3, 5


@documented
@dataclass(frozen=True, kw_only=True)
class LandscapeConfig(LandscapeSettings):
    """How far and how finely to look around a run's weights.

    The rows are of validation, at most so many, the same for all runs of a task; a step of the Hessian costs five
    passes over its own. Directions "auto" are the trajectory where a run kept one with two evaluations before its best
    checkpoint, and random ones elsewhere. The extent is in norms of each filter; None takes 1 along random directions,
    and one and a half times the way of the path along a trajectory, which would be a dot at 1. The radius is that of
    the ball in which sharpness looks for the largest loss.

    Raises:
        LopsidedError: for numbers that make no sense, or unknown directions.
    """

    def __post_init__(self) -> None:
        check_settings(self)


def landscape_of_run(inputs: SectionInputs) -> dict[str, Any]:
    """Compute the plane, the line, the path and the sharpness.

    Raises:
        LopsidedError: for a trajectory that the run did not keep.
    """
    run, config = inputs.run, inputs.config.landscape
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches, few = (
        batches_of(inputs.data, count, run.config.batch_size, device) for count in (config.rows, config.hessian_rows)
    )
    model = inputs.merged.to(device)
    before = _steps_before_the_best(inputs)
    kind = config.directions
    if kind == "auto":
        kind = "trajectory" if len(before) >= 2 else "random"
    directions = _directions(inputs, before, kind)

    counted = CountedLoss(_passes(config, batches, few), inputs.progress.step)
    extent = _extent(config, directions)
    surface = landscape(model, directions, batches, points=config.points, extent=extent, loss=counted.of(1))
    ascent = _or_reason(
        lambda: largest_increase(
            model, batches, radius=config.radius, steps=ASCENT, seed=config.seed, loss=counted.of(GRADIENT)
        )
    )
    top = _or_reason(
        lambda: hessian_top(inputs.model.to(device), few, steps=LANCZOS, seed=config.seed, loss=counted.of(PRODUCT))
    )
    section = surface.to_json(steps=before if directions.path is not None else [], split=SPLIT)
    if section["path"] is not None:
        # The way ends at the centre.
        section["path"].append({"step": run.best_step, "a": 0.0, "b": 0.0})
    return section | {"sharpness": sharpness_json(config.radius, ascent, top)}


class CountedLoss:
    """The model's own loss, which tells after each batch how much of a known number of passes is done.

    Args:
        total: rows times forward passes, of all that is to be computed.
        done: receives what is done, and the total.
    """

    def __init__(self, total: int, done: Step) -> None:
        self._total, self._tell, self._count = total, done, 0

    def of(self, passes: int) -> Loss:
        """Return the loss, where each of its calls is part of something that costs so many forward passes."""

        def counted(model: Any, batch: Batch) -> torch.Tensor:
            # Before the loss: the backward pass, which is the greater part, comes after it.
            self._tell(self._count, self._total)
            self._count += passes * len(batch["labels"])
            return model_loss(model, batch)

        return counted


def _passes(config: LandscapeConfig, batches: Sequence[Batch], few: Sequence[Batch]) -> int:
    """Rows times forward passes of a landscape and both searches, none of which ends early."""
    rows, of_hessian = (sum(len(batch["labels"]) for batch in each) for each in (batches, few))
    # Without a point in the middle, the line is computed for itself.
    points = config.points**2 + (0 if config.points % 2 else config.points + 1)
    # After the ascent's last step comes one loss more, which counts as a gradient.
    return rows * (points + GRADIENT * (ASCENT + 1)) + of_hessian * PRODUCT * LANCZOS


def batches_of(data: Data, count: int, size: int, device: torch.device) -> list[Batch]:
    """Return so many validation rows as a run's own batches, shortest first; fewer rows are some of more."""
    rows, collate = sample_rows(data.encoded.splits[SPLIT], count), data.collator()
    parts = [range(first, min(first + size, len(rows))) for first in range(0, len(rows), size)]
    return [{key: tensor.to(device) for key, tensor in collate([rows[j] for j in part]).items()} for part in parts]


def _steps_before_the_best(inputs: SectionInputs) -> list[int]:
    """The snapshots on the way to the checkpoint that was kept, which is the centre; later ones are not on it."""
    best = inputs.run.best_step
    return [] if best is None else [step for step in snapshots(inputs.run.folder) if step < best]


def _directions(inputs: SectionInputs, before: Sequence[int], kind: str) -> Directions:
    model = inputs.merged
    centre = {name: parameter.detach() for name, parameter in plane_parameters(model).items()}
    transposed = transposed_names(model)
    if kind == "random":
        return random_directions(centre, seed=inputs.config.landscape.seed, transposed=transposed)
    device = next(iter(centre.values())).device
    # One at a time: the models of a long run's snapshots would not fit.
    passed = (
        {name: p.detach().to(device) for name, p in plane_parameters(inputs.snapshot(step)).items()} for step in before
    )
    return trajectory_directions(centre, passed, transposed=transposed)


def _extent(config: LandscapeConfig, directions: Directions) -> float:
    if config.extent is not None:
        return config.extent
    path = directions.path
    return 1.0 if path is None else ROOM * max(abs(x) for point in path for x in point)


def _or_reason(compute: Callable[[], Result]) -> Result | str:
    """What it returns, or our own error's text: without the sharpness there is still the landscape."""
    try:
        return compute()
    except LopsidedError as error:
        return str(error)


# -- what the terminal and the page show ---------------------------------------------------------------------

# A landscape is compared by its colours; above this share of all losses they saturate, or one cliff hides the rest.
SATURATES = 0.95


def rise_cell(section: Mapping[str, Any]) -> str:
    """Return the largest rise of the loss within the radius."""
    return number_text(section.get("sharpness", {}).get("largest"))


def eigenvalue_cell(section: Mapping[str, Any]) -> str:
    """Return the Hessian's top eigenvalue, with its residual where Lanczos had not converged."""
    sharpness = section.get("sharpness", {})
    text = number_text(sharpness.get("hessian_top"))
    # Absent in files of version 0.1.0.
    if sharpness.get("hessian_converged", True) is False:
        text += f" (± {number_text(sharpness['hessian_residual'])}, not converged)"
    return text


def draw_landscapes(group: RunGroup) -> Figure | None:
    """Draw the loss around where a run ended, of the first seed of each method."""
    members = by_label(diagnosed(group.runs, "landscape"))
    if not members:
        return None
    firsts = [runs[0].diagnosis["landscape"] for runs in members.values()]
    views = [_surface(label, runs[0]) for label, runs in members.items()]
    losses = sorted(loss for each in views for row in each["loss"] for loss in row if loss is not None)
    if not losses:
        return None
    span = [losses[0], losses[int(SATURATES * (len(losses) - 1))]]
    for each in views:
        each["span"] = span
    rises = {label: _mean_rise(runs) for label, runs in members.items()}
    lacking = [label for label, rise in rises.items() if rise is None]
    return Figure(
        key=f"{group.key}-landscapes",
        kind="landscape",
        title="Loss landscapes",
        shows=without(landscapes_caption(firsts), lacking, "a sharpness of every seed"),
        means=landscapes_meaning(
            {label: rise for label, rise in rises.items() if rise is not None},
            (firsts[0].get("sharpness") or {}).get("radius"),
        ),
        choose="run",
        views=views,
    )


def landscapes_caption(sections: Sequence[Mapping[str, Any]]) -> str:
    """Return what the figure shows, from the sections that it draws."""
    kinds = {section["directions"] for section in sections}
    lost = sum(section["not_finite"] for section in sections)
    path, random = "the two main directions of its training path", "two random directions"
    along = (
        f"{path}, or {random} where no path was kept" if len(kinds) > 1 else path if "trajectory" in kinds else random
    )
    gaps = f"; {lost} losses were not finite and are gaps" if lost else ""
    return (
        f"The {sections[0]['split']} loss around where a run ended, along {along}, as a surface to turn and as "
        "contours; the line is the path, the reach of the axes is each run's own, and colours mean the same in every "
        f"run{gaps}."
    )


def landscapes_meaning(rises: Mapping[str, float], radius: float | None) -> str:
    """Return what sharpness means for choosing a method, from each method's mean rise within the radius."""
    if not rises:
        return "No sharpness was measured, so compare the widths of the valleys by eye, and don't choose by them."
    flat, steep = min(rises, key=lambda k: rises[k]), max(rises, key=lambda k: rises[k])
    within = f"Within a radius of {radius:g} the loss rises" if radius else "The loss rises"
    if flat == steep:
        return f"{within} by up to {rises[flat]:.3f} for {flat}."
    return (
        f"{within} least for {flat} ({rises[flat]:.3f}) and most for {steep} ({rises[steep]:.3f}): "
        "flatness is a reason to choose only between methods that score alike."
    )


def _surface(label: str, run: DrawnRun) -> dict[str, Any]:
    section = run.diagnosis["landscape"]
    path = section.get("path") or []
    return {
        "name": f"{label}, seed {run.seed}",
        "label": label,
        "axis": rounded(section["axis"]),
        "loss": rounded(section["loss"]),
        "path": {key: rounded([point[key] for point in path]) for key in ("a", "b", "step")},
        "explained": rounded(section.get("explained")),
    }


def _mean_rise(runs: Sequence[DrawnRun]) -> float | None:
    """The mean over seeds; None if one of them lacks it."""
    sharpness = [run.diagnosis["landscape"].get("sharpness") or {} for run in runs]
    return mean(each.get("largest") for each in sharpness)


SECTION = Section(
    name="landscape",
    about="the validation loss on a line and a plane through the weights, and how sharply it rises around them",
    needs=frozenset({Need.ROWS}),
    compute=landscape_of_run,
    headlines=(
        Headline(heading="rise in radius", cell=rise_cell, place=50),
        Headline(heading="top eigenvalue", cell=eigenvalue_cell, place=60),
    ),
    figures=(FigureEntry(draw=draw_landscapes, place=60),),
    place=40,
)
