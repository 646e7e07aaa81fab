"""A figure as plain data: what plots.js draws, what becomes CSV, and the words around it.

A figure holds views, of which one shows at a time; a view holds series, each of one method, whose colour, symbol and
place in the legend follow from its `label`. Numbers are rounded to four digits here, once.

What a page can draw is a list of `FigureEntry`: each makes one figure of a group of runs, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

DIGITS = 4
# Where an entry stands that names no place of its own: after those that do.
LAST = 1000

# What a group's methods came to: `report` has the type of it, which figures of a diagnosis do not read.
BoardT_co = TypeVar("BoardT_co", covariant=True)
BoardT_contra = TypeVar("BoardT_contra", contravariant=True)


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
        choose: the words next to the choice of a view.
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
        """Return the figure as plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class DrawnRun:
    """A run, as figures read it.

    Args:
        label: its method, with the settings that tell it from others; decides its colour and its place in legends.
        id: what the diagnoses of other runs call it.
        train, validation: steps and losses; a loss is None where it was not finite.
        boundaries: the steps after which a chain began a new link; empty for a run without a chain.
        steps: how many there were; None for a run that did not finish.
        bound: the information bound of its generalization gap; None where it could not be computed.
        diagnosis: the sections of its `diagnosis.json`, by name; empty for a run that was not diagnosed.
    """

    label: str
    seed: int
    id: str
    is_finished: bool
    train: Sequence[tuple[int, float | None]] = ()
    validation: Sequence[tuple[int, float | None]] = ()
    boundaries: Sequence[int] = ()
    steps: int | None = None
    bound: float | None = None
    diagnosis: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DrawnRate:
    """A learning rate that was tried, as figures read it; without a score where its trial has none."""

    rate: float
    score: float | None


@dataclass(frozen=True, kw_only=True)
class RunGroup(Generic[BoardT_co]):
    """Runs on one model and task, which a page compares.

    Args:
        key: unique in the page.
        leaderboard: their columns and rows.
        runs: the best method's first.
        rates: what the runs' learning rates were chosen from, by label, from the lowest.
    """

    key: str
    leaderboard: BoardT_co
    runs: Sequence[DrawnRun]
    rates: Mapping[str, Sequence[DrawnRate]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FigureEntry(Generic[BoardT_contra]):
    """One entry of the list of figures that a page can draw.

    Args:
        draw: makes the figure of a group; None where the runs lack what it shows.
        place: the figures of a group stand in the order of this number; at equal ones, in the order of their list.
    """

    draw: Callable[[RunGroup[BoardT_contra]], Figure | None]
    place: int = LAST


def view(name: str, x: Axis, y: Axis, series: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a view with axes."""
    return {"name": name, "x": asdict(x), "y": asdict(y), "series": list(series)}


def series(label: str, x: Sequence[Any], y: Sequence[Any], *, name: str | None = None, **more: Any) -> dict[str, Any]:
    """Return one method's points; `more` may hold `low`, `high`, `dash`, `marks` (places on x) and `hollow`."""
    return {"label": label, "name": name or label, "x": rounded(x), "y": rounded(y), **more}


def rounded(value: Any) -> Any:
    """Return a number, or lists of numbers, with `DIGITS` digits.

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
    """Return the mean, or None where one of the values is missing: a gap stays a gap."""
    numbers = list(values)
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known and len(known) == len(numbers) else None


def mean_of_known(values: Iterable[float | None]) -> tuple[float | None, int, int]:
    """Return the mean of the values that are there, their number, and how many there should be: for layers."""
    numbers = list(values)
    known = [number for number in numbers if number is not None]
    return (sum(known) / len(known) if known else None), len(known), len(numbers)


def part_of(counted: int, of: int, what: str) -> str:
    """Return what a name says where a mean leaves some out.

    Example:
        >>> part_of(11, 12, "layers"), part_of(12, 12, "layers")
        (' (11 of 12 layers)', '')
    """
    return "" if counted == of else f" ({counted} of {of} {what})"


def mean_curve(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the mean of curves, point by point, as far as the shortest goes."""
    return [mean(values) for values in zip(*curves)]


def mean_interval(label: str, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a mark at the mean over seeds, with the mean of the runs' own intervals where all of them have one.

    Args:
        parts: of each seed, `value`, `low` and `high`.

    Returns:
        None where a seed has no value.
    """
    value, low, high = (mean(part[key] for part in parts) for key in ("value", "low", "high"))
    if value is None:
        return None
    if low is None or high is None:
        return series(label, [value], [label], name=f"{label} (no interval)")
    return series(label, [value], [label], low=rounded([low]), high=rounded([high]))


def by_label(runs: Iterable[DrawnRun]) -> dict[str, list[DrawnRun]]:
    """Return runs under their labels, in the order given."""
    members: dict[str, list[DrawnRun]] = {}
    for run in runs:
        members.setdefault(run.label, []).append(run)
    return members


def diagnosed(runs: Iterable[DrawnRun], section: str) -> list[DrawnRun]:
    """Return the runs whose diagnosis holds that section."""
    return [run for run in runs if run.diagnosis.get(section)]
