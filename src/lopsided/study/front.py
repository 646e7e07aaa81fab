"""The Pareto front of two columns: the methods that no other matches on both and beats on one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lopsided.study.board_rows import Row
from lopsided.study.columns import Column


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method with a place on both axes, and the methods that beat it there."""

    label: str
    beaten_by: tuple[str, ...]


def contenders(rows: Sequence[Row], x: Column, y: Column) -> list[Contender]:
    """Return the methods that compete on two columns, best on `x` first, each with those that beat it.

    Whatever subset of the methods is shown, its front is those which no method of the subset beats.
    The floor does not compete, nor does a method that one of the axes cannot show.
    """
    places = {row.label: place for row in rows if not row.floor and (place := _place(row, (x, y))) is not None}
    order = sorted(places, key=lambda label: (places[label], label))
    return [
        Contender(label=label, beaten_by=tuple(other for other in order if _beats(places[other], places[label])))
        for label in order
    ]


def front(competing: Sequence[Contender]) -> list[str]:
    """Return the labels of the contenders that none beats, in their order."""
    return [contender.label for contender in competing if not contender.beaten_by]


def _place(row: Row, axes: tuple[Column, Column]) -> tuple[float, float] | None:
    """The two means, lower being better; None if one is missing, or has no place on a logarithmic axis."""
    means = [row.cells[axis.key].mean for axis in axes]
    known = [mean for mean, axis in zip(means, axes) if mean is not None and (mean > 0 or not axis.logarithmic)]
    if len(known) < len(axes):
        return None
    return axes[0].sign * known[0], axes[1].sign * known[1]


def _beats(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return first[0] <= second[0] and first[1] <= second[1] and first != second
