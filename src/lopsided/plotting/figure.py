"""A figure as plain data: what plots.js draws, what becomes CSV, and the words around it.

A figure holds views, of which one shows at a time; a view holds series, each of one method, whose colour, symbol and
place in the legend follow from its `label`. Numbers are rounded to four digits here, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis: its title, and whether it is logarithmic."""

    title: str
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of the page.

    Args:
        key: unique in the page.
        kind: how plots.js draws it: "lines", "intervals", "timeline", "matrix", "landscape" or "pareto".
        shows, means: one plain sentence each: what is drawn, and what follows for choosing a method.
        choose: the words beside the choice of a view.
        views: {"name", "x", "y", "series"}, or what the kind needs instead of axes and series.
    """

    key: str
    kind: str
    title: str
    shows: str
    means: str
    choose: str = "show"
    views: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def view(name: str, x: Axis, y: Axis, series: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "x": asdict(x), "y": asdict(y), "series": list(series)}


def series(label: str, x: Sequence[Any], y: Sequence[Any], *, name: str | None = None, **more: Any) -> dict[str, Any]:
    """One method's points; `more` may hold `low`, `high`, `dash`, `marks` (places on x) and `hollow`."""
    return {"label": label, "name": name or label, "x": rounded(x), "y": rounded(y), **more}


def rounded(value: Any) -> Any:
    """
    Example:
        >>> rounded([0.123456, None, 3, [1234.56]])
        [0.1235, None, 3, [1235.0]]
    """
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return value


def mean(values: Iterable[float | None]) -> float | None:
    """The mean, or None where one of the values is missing: a gap stays a gap."""
    numbers = list(values)
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known and len(known) == len(numbers) else None


def mean_of_known(values: Iterable[float | None]) -> tuple[float | None, int, int]:
    """The mean of the values that are there, their number, and how many there should be: for layers, which differ."""
    numbers = list(values)
    known = [number for number in numbers if number is not None]
    return (sum(known) / len(known) if known else None), len(known), len(numbers)


def part_of(counted: int, of: int, what: str) -> str:
    """What a name says where a mean leaves some out.

    Example:
        >>> part_of(11, 12, "layers"), part_of(12, 12, "layers")
        (' (11 of 12 layers)', '')
    """
    return "" if counted == of else f" ({counted} of {of} {what})"


def mean_curve(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean of curves, point by point, as far as the shortest goes."""
    return [mean(values) for values in zip(*curves)]


def by_label(runs: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Runs under their labels, in the order given."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        found.setdefault(run["label"], []).append(run)
    return found


def diagnosed(runs: Iterable[dict[str, Any]], section: str) -> list[dict[str, Any]]:
    """The runs whose diagnosis holds that section."""
    return [run for run in runs if run["diagnosis"] and run["diagnosis"].get(section)]
