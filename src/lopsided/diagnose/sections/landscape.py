"""A finished run's loss around its weights: the landscape on validation rows, and how sharply it rises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lopsided.diagnose.batches import Batch
from lopsided.diagnose.directions import (
    Directions,
    plane_parameters,
    random_directions,
    trajectory_directions,
    transposed_names,
)
from lopsided.diagnose.loss_grid import landscape
from lopsided.diagnose.sharpness import hessian_top, largest_increase, sharpness_json
from lopsided.errors import LopsidedError
from lopsided.runs.reload import data_of, reload, reload_merged
from lopsided.runs.run import finished_run
from lopsided.runs.session import sample_rows
from lopsided.runs.trajectory import snapshots
from lopsided.settings import check_settings, documented
from lopsided_settings.diagnose import LandscapeSettings

Found = TypeVar("Found")

SPLIT = "validation"
# How much further than its path a landscape reaches.
ROOM = 1.5


@documented
@dataclass(frozen=True, kw_only=True)
class Surroundings(LandscapeSettings):
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


def landscape_of_run(
    folder: Path, record: Mapping[str, Any], asked: Surroundings, *, note: Callable[[str], None]
) -> dict[str, Any]:
    """The `landscape` of diagnosis.json: the plane, the line, the path and the sharpness.

    Args:
        folder: of a finished run. record: its run.json.

    Raises:
        LopsidedError: for a trajectory that the run did not keep.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches, few = _batches(folder, (asked.rows, asked.hessian_rows), device)
    model = reload_merged(folder).to(device)
    # The checkpoint that was kept is the centre, and later snapshots are not on the way to it.
    before = [step for step in snapshots(folder) if step < record["best_step"]]
    kind = asked.directions
    if kind == "auto":
        kind = "trajectory" if len(before) >= 2 else "random"
    along = _directions(model, folder, before, kind, asked.seed)

    def done(number: int, total: int) -> None:
        if number % asked.points == 0:
            note(f"landscape: {number} of {total} points")

    found = landscape(model, along, batches, points=asked.points, extent=_extent(asked, along), done=done)
    note("sharpness")
    ascent = _or_why(lambda: largest_increase(model, batches, radius=asked.radius, seed=asked.seed))
    top = _or_why(lambda: hessian_top(reload(folder, trainable=True).to(device), few, seed=asked.seed))
    told = found.to_json(steps=before if along.path is not None else [], split=SPLIT)
    if told["path"] is not None:
        # The way ends at the centre.
        told["path"].append({"step": record["best_step"], "a": 0.0, "b": 0.0})
    return told | {"sharpness": sharpness_json(asked.radius, ascent, top)}


def _or_why(compute: Callable[[], Found]) -> Found | str:
    """What it returns, or our own error's text: without the sharpness there is still the landscape."""
    try:
        return compute()
    except LopsidedError as error:
        return str(error)


def _extent(asked: Surroundings, along: Directions) -> float:
    if asked.extent is not None:
        return asked.extent
    return 1.0 if along.path is None else ROOM * max(abs(x) for point in along.path for x in point)


def _directions(model: nn.Module, folder: Path, before: list[int], kind: str, seed: int) -> Directions:
    centre = {name: parameter.detach() for name, parameter in plane_parameters(model).items()}
    if kind == "random":
        return random_directions(centre, seed=seed, transposed=transposed_names(model))
    device = next(iter(centre.values())).device
    passed = (
        {name: p.detach().to(device) for name, p in plane_parameters(reload_merged(folder, snapshot=step)).items()}
        for step in before
    )
    return trajectory_directions(centre, passed, transposed=transposed_names(model))


def _batches(folder: Path, counts: Sequence[int], device: torch.device) -> Iterator[list[Batch]]:
    """So many of the run's validation rows as its own batches, shortest first; fewer rows are some of more."""
    run = finished_run(folder)
    data, size = data_of(run), run.config.batch_size
    collate = data.collator()
    for count in counts:
        rows = sample_rows(data.encoded.splits[SPLIT], count)
        places = [range(first, min(first + size, len(rows))) for first in range(0, len(rows), size)]
        yield [{key: tensor.to(device) for key, tensor in collate([rows[j] for j in part]).items()} for part in places]
