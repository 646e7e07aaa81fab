"""The loss around a finished run's weights: on a line, on a plane, along the way that led there.

Notation: w* is the centre, d_1 and d_2 are directions (`lopsided.diagnose.directions`); the surface is
f(a, b) = L(w* + a·d_1 + b·d_2), for a and b in [-1, 1] by default, and the line is f(t, 0). A surface drawn in three
dimensions is the same numbers as its contours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lopsided.curvature.batches import Batch, Loss, check_batches, mean_loss, model_loss
from lopsided.diagnose.directions import Directions, plane_parameters
from lopsided.diagnose.section_progress import Step
from lopsided.errors import LopsidedError
from lopsided.finite import finite_or_none
from lopsided.models.mode_contexts import model_mode

# None where a loss is not finite.
LossRow = list[float | None]


class Plane:
    """A model's weights, moved on a plane through where they are; the model computes with them as usual.

    The weights are written in place: no module is rebuilt and no file is read. A row of points shares w* + b·d_2, so
    that a point costs one pass over the weights.

    Args:
        model: plain, with its weights at the centre.
        directions: of its own parameters.

    Raises:
        LopsidedError: for directions of other parameters.
    """

    def __init__(self, model: nn.Module, directions: Directions) -> None:
        parameters = plane_parameters(model)
        self.names = [n for n in parameters if n in directions.first or n in directions.second]
        strangers = [n for n in {**directions.first, **directions.second} if n not in parameters]
        if strangers:
            raise LopsidedError(
                f"expected directions of the model's own weights, got one of {strangers[0]}; make them from "
                "plane_parameters(model)"
            )
        self.weights = [parameters[name].data for name in self.names]
        self.first = self._along(directions.first)
        self.second = self._along(directions.second)
        self.centre = [weight.clone() for weight in self.weights]
        self.base = [weight.clone() for weight in self.weights]

    def _along(self, direction: Any) -> list[Tensor]:
        zero = torch.zeros(())
        return [
            (direction[name] if name in direction else zero.expand_as(weight)).to(weight.device, weight.dtype)
            for name, weight in zip(self.names, self.weights)
        ]

    @torch.no_grad()
    def row(self, b: float) -> None:
        """Set the base of the points that follow: w* + b·d_2."""
        for base, centre, d in zip(self.base, self.centre, self.second):
            torch.add(centre, d, alpha=b, out=base)

    @torch.no_grad()
    def put(self, a: float) -> None:
        """Set the model's weights to the row's base + a·d_1."""
        for weight, base, d in zip(self.weights, self.base, self.first):
            torch.add(base, d, alpha=a, out=weight)

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Let the weights be anywhere inside the context; after it they have the centre's bits, whatever happened."""
        try:
            yield
        finally:
            # One call in C, in which no signal is looked at: a Ctrl-C can't leave half of the weights behind.
            torch._foreach_copy_(self.weights, self.centre)


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """Losses on a line and a plane.

    Args:
        directions: what was walked along.
        axis: of both coordinates.
        loss: row i, column j at a = axis[j], b = axis[i]; None where it was not finite.
        centre: f(0, 0).
        t, line: the points of f(t, 0) and their losses.
        rows: of the batches.
    """

    directions: Directions
    axis: list[float]
    loss: list[LossRow]
    centre: float | None
    t: list[float]
    line: LossRow
    rows: int

    @property
    def not_finite(self) -> int:
        """The number of points of the plane without a finite loss."""
        return sum(value is None for row in self.loss for value in row)

    def to_json(self, *, steps: Sequence[int] = (), split: str | None = None) -> dict[str, Any]:
        """Return the `landscape` of diagnosis.json, without its sharpness.

        Args:
            steps: of the snapshots on the path; needed where the directions have one.
            split: that the batches came from.
        """
        path = self.directions.path
        return {
            "directions": self.directions.kind,
            "normalised": "filters",
            "seed": self.directions.seed,
            "rows": self.rows,
            "split": split,
            "axis": self.axis,
            "loss": self.loss,
            "not_finite": self.not_finite,
            "centre": self.centre,
            "path": None
            if path is None
            else [{"step": step, "a": a, "b": b} for step, (a, b) in zip(steps, path, strict=True)],
            "explained": None if self.directions.explained is None else list(self.directions.explained),
            "line": {"t": self.t, "loss": self.line},
        }


def landscape(
    model: nn.Module,
    directions: Directions,
    batches: Sequence[Batch],
    *,
    points: int = 25,
    extent: float = 1.0,
    loss: Loss = model_loss,
    done: Step = lambda number, total: None,
) -> Landscape:
    """Compute the surface and the line around a model's weights, which are afterwards what they were, bit for bit.

    Args:
        model: plain (adapters merged), at the centre; evaluated without dropout.
        batches: with labels; the same for all points.
        points: along each axis. An odd number has the centre among them, and then the line is a row of the surface.
        extent: of the axes. At 1 every filter changes by as much as itself, which is far more than training an adapter
            changes it: to see the path, take the size of its coordinates.
        loss: of one batch, its mean over `predictions_in(batch)`.
        done: called after each point.

    Raises:
        LopsidedError: for fewer than two points, batches without labels, directions of other parameters.

    Source:
        Li et al. 2018, arXiv:1712.09913; Cadenhead et al. 2026, arXiv:2606.13767.
    """
    values = axis(points, extent)
    check_batches(batches)
    plane = Plane(model, directions)
    middle = points % 2 == 1
    total, number = points * points + (0 if middle else 1 + points), 0

    def along(b: float, places: Sequence[float]) -> LossRow:
        nonlocal number
        plane.row(b)
        losses: LossRow = []
        for a in places:
            plane.put(a)
            value = mean_loss(model, batches, loss)
            losses.append(finite_or_none(value))
            number += 1
            done(number, total)
        return losses

    with model_mode(model, training=False), plane.moving():
        surface = [along(b, values) for b in values]
        line = surface[points // 2] if middle else along(0.0, values)
        centre = line[points // 2] if middle else along(0.0, [0.0])[0]
    rows = sum(len(batch["labels"]) for batch in batches)
    return Landscape(directions=directions, axis=values, loss=surface, centre=centre, t=values, line=line, rows=rows)


def axis(points: int, extent: float = 1.0) -> list[float]:
    """Return even steps from -extent to extent; the middle of an odd number is exactly 0, and the halves are mirrored.

    Example:
        >>> axis(5)
        [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    if points < 2:
        raise LopsidedError(f"expected at least 2 points along an axis, got {points}; raise --points")
    if not 0 < extent < math.inf:
        raise LopsidedError(f"expected a positive extent of the axes, got {extent}; correct it")
    return [extent * ((2 * i - (points - 1)) / (points - 1)) for i in range(points)]
