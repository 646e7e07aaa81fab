"""How a measured number is written, one function a unit, for the page and the terminal alike.

A cell is `{"mean": float | None, "se": float | None, "mark": "best" | "tied" | None}`, and has `why` where one of the
first two could not be computed. Percents are stored as fractions. What is missing or not finite is written as a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lopsided.files.strict_json import WHY
from lopsided.finite import is_finite

MISSING = "–"
MARKS = {"best": "●", "tied": "○"}


@dataclass(frozen=True)
class Figure:
    """A mean, its standard error where there is one to show, and the unit, as text."""

    mean: str
    se: str | None = None
    suffix: str = ""

    def __str__(self) -> str:
        middle = "" if self.se is None else f" ± {self.se}"
        return f"{self.mean}{middle}" + (f" {self.suffix}" if self.suffix else "")


def count(mean: float, se: float | None) -> Figure:
    """A whole number with thousands separators.

    Example:
        >>> str(count(147456, None))
        '147,456'
    """
    return Figure(f"{mean:,.0f}", f"{se:,.0f}" if se else None)


def percent(mean: float, se: float | None) -> Figure:
    """A fraction, written in percent.

    Example:
        >>> str(percent(0.81, 0.012))
        '81.0 ± 1.2 %'
    """
    return _decimal(100 * mean, None if se is None else 100 * se, places=1, suffix="%")


def loss(mean: float, se: float | None) -> Figure:
    """A loss, or a difference of two, in the loss's own unit.

    Example:
        >>> str(loss(0.01234, 0.0021)), str(loss(0.00004, None))
        ('0.012 ± 0.002', '0.00004')
    """
    return _decimal(mean, se, places=3)


def score(mean: float, se: float | None) -> Figure:
    """A plain number, such as a Matthews correlation.

    Example:
        >>> str(score(0.5312, 0.0204))
        '0.531 ± 0.020'
    """
    return _decimal(mean, se, places=3)


def perplexity(mean: float, se: float | None) -> Figure:
    """A perplexity, to two decimals.

    Example:
        >>> str(perplexity(21.5, 0.25))
        '21.50 ± 0.25'
    """
    return _decimal(mean, se, places=2)


def milliseconds(mean: float, se: float | None) -> Figure:
    """The unit stands in the column's title, so the text leaves it out.

    Example:
        >>> str(milliseconds(1234.56, 12.3))
        '1,234.6 ± 12.3'
    """
    return _decimal(mean, se, places=1)


def size(mean: float, se: float | None) -> Figure:
    """Bytes, in powers of 1024.

    Example:
        >>> str(size(1536, None)), str(size(3 * 2**20, 0.0)), str(size(12, None))
        ('1.5 KiB', '3.0 MiB', '12 B')
    """
    power = 0
    # Compared after rounding, so that 1023.99 KiB is written 1.0 MiB and not 1024.0 KiB.
    while power < len(_BYTES) - 1 and round(abs(mean) / 1024**power, 1 if power else 0) >= 1024:
        power += 1
    places = 1 if power else 0
    scale = 1024**power
    return Figure(f"{mean / scale:.{places}f}", f"{se / scale:.{places}f}" if se else None, _BYTES[power])


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> duration(512.3), duration(7384), duration(0.4)
        ('8 min 32 s', '2 h 3 min', '0.4 s')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def cell_figure(cell: dict[str, Any], unit: str) -> Figure:
    """The cell's parts as text; see `cell_text`."""
    if unit not in UNITS:
        raise ValueError(f"a column's unit must be one of {', '.join(UNITS)}, received {unit!r}")
    mean, se = cell.get("mean"), cell.get("se")
    if not is_finite(mean):
        return Figure(MISSING)
    figure = UNITS[unit](mean, se if is_finite(se) else None)
    # A standard error that there should be, and that could not be computed, is a dash; one that isn't there is not.
    if (se is not None and not is_finite(se)) or (se is None and "se" in cell.get(WHY, {})):
        return Figure(figure.mean, MISSING, figure.suffix)
    return figure


def cell_text(cell: dict[str, Any], unit: str) -> str:
    """Write one cell as text: mean ± one standard error, and the unit where it isn't in the title.

    Args:
        cell: `{"mean": ..., "se": ...}`; an empty cell, None and non-finite numbers are a dash.
        unit: one of `UNITS`.

    Raises:
        ValueError: if the unit is unknown.

    Example:
        >>> cell_text({"mean": 0.81, "se": 0.012, "mark": "best"}, "percent")
        '81.0 ± 1.2 %'
        >>> cell_text({"mean": float("nan"), "se": None}, "bytes")
        '–'
    """
    return str(cell_figure(cell, unit))


def joined(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    Example:
        >>> joined(["lora"]), joined(["lora", "cla"]), joined(["lora", "cla", "paca"])
        ('lora', 'lora and cla', 'lora, cla and paca')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _decimal(mean: float, se: float | None, *, places: int, suffix: str = "") -> Figure:
    """`places` decimals, and up to three more where fewer would write a nonzero number as zero."""
    smallest = abs(se if se else mean)
    if smallest > 0:
        # 1e-9: log10 of an exact power of ten may land just below the whole number.
        places = min(max(places, -math.floor(math.log10(smallest) + 1e-9)), places + 3)
    return Figure(f"{mean:,.{places}f}", None if se is None else f"{se:,.{places}f}", suffix)


_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
UNITS: dict[str, Callable[[float, float | None], Figure]] = {
    "count": count,
    "percent": percent,
    "loss": loss,
    "ms": milliseconds,
    "bytes": size,
    "score": score,
    "perplexity": perplexity,
}
