"""How a measured number is written, one function per unit, for the page, the terminal and notebooks alike.

Percents are stored as fractions. What is missing or not finite is written as a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from lopsided.finite import is_finite

MISSING = "–"
MARKS = {"best": "●", "tied": "○"}


@dataclass(frozen=True)
class EstimateText:
    """A number, its standard error where there is one to show, and the unit, as text."""

    number: str
    se: str | None = None
    suffix: str = ""

    def __str__(self) -> str:
        middle = "" if self.se is None else f" ± {self.se}"
        return f"{self.number}{middle}" + (f" {self.suffix}" if self.suffix else "")


def count(mean: float, se: float | None) -> EstimateText:
    """Write a whole number with thousands separators.

    Example:
        >>> str(count(147456, None))
        '147,456'
    """
    return EstimateText(f"{mean:,.0f}", f"{se:,.0f}" if se else None)


def percent(mean: float, se: float | None) -> EstimateText:
    """Write a fraction in percent.

    Example:
        >>> str(percent(0.81, 0.012))
        '81.0 ± 1.2 %'
    """
    return _decimal(100 * mean, None if se is None else 100 * se, places=1, suffix="%")


def points(mean: float, se: float | None) -> EstimateText:
    """Write a fraction in hundredths without a sign, as BLEU and ROUGE are printed.

    Example:
        >>> str(points(0.6812, 0.012))
        '68.1 ± 1.2'
    """
    return _decimal(100 * mean, None if se is None else 100 * se, places=1)


def loss(mean: float, se: float | None) -> EstimateText:
    """Write a loss, or a difference of two, in the loss's own unit.

    Example:
        >>> str(loss(0.01234, 0.0021)), str(loss(0.00004, None))
        ('0.012 ± 0.002', '0.00004')
    """
    return _decimal(mean, se, places=3)


def score(mean: float, se: float | None) -> EstimateText:
    """Write a plain number, such as a Matthews correlation.

    Example:
        >>> str(score(0.5312, 0.0204))
        '0.531 ± 0.020'
    """
    return _decimal(mean, se, places=3)


def perplexity(mean: float, se: float | None) -> EstimateText:
    """Write a perplexity, to two decimals.

    Example:
        >>> str(perplexity(21.5, 0.25))
        '21.50 ± 0.25'
    """
    return _decimal(mean, se, places=2)


def milliseconds(mean: float, se: float | None) -> EstimateText:
    """Write milliseconds; the unit stands in the column's title, so the text leaves it out.

    Example:
        >>> str(milliseconds(1234.56, 12.3))
        '1,234.6 ± 12.3'
    """
    return _decimal(mean, se, places=1)


def size(mean: float, se: float | None) -> EstimateText:
    """Write bytes in powers of 1024.

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
    return EstimateText(f"{mean / scale:.{places}f}", f"{se / scale:.{places}f}" if se else None, _BYTES[power])


def duration(seconds: float) -> str:
    """Write seconds as a person says them.

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


def number_text(value: float | None, form: str = ".3g") -> str:
    """Return a number as text, or a dash for one that is missing or not finite.

    Example:
        >>> number_text(0.51234, ".2f"), number_text(None), number_text(float("nan"))
        ('0.51', '–', '–')
    """
    return f"{value:{form}}" if is_finite(value) else MISSING


def estimate_text(mean: float | None, se: float | None, unit: str, *, lacks_error: bool = False) -> EstimateText:
    """Write a number: mean ± one standard error, and the unit where it is not in the title.

    Args:
        mean, se: None and what is not finite is a dash; a number without `se` has no error to show.
        unit: a key of `UNITS`.
        lacks_error: whether there should be an error, and it could not be computed: then it is a dash.

    Raises:
        ValueError: if the unit is unknown.

    Example:
        >>> str(estimate_text(0.81, 0.012, "percent"))
        '81.0 ± 1.2 %'
        >>> str(estimate_text(float("nan"), None, "bytes")), str(estimate_text(5.0, None, "score", lacks_error=True))
        ('–', '5.000 ± –')
    """
    if unit not in UNITS:
        raise ValueError(f"a column's unit must be one of {', '.join(UNITS)}, received {unit!r}")
    if not is_finite(mean):
        return EstimateText(MISSING)
    text = UNITS[unit](mean, se if is_finite(se) else None)
    if lacks_error or (se is not None and not is_finite(se)):
        return EstimateText(text.number, MISSING, text.suffix)
    return text


def html_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", below: Sequence[str] = ()
) -> str:
    """Return a table for a notebook, which brings its own style: a caption, the cells, and sentences below it.

    Everything is escaped: names come from users' files.

    Example:
        >>> html_table(["method"], [["<b>"]], title="One")
        '<table><caption>One</caption><tr><th>method</th></tr><tr><td>&lt;b&gt;</td></tr></table>'
    """
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    sentences = "".join(f"<p>{escape(each)}</p>" for each in below)
    return f"<table>{caption}<tr>{head}</tr>{body}</table>{sentences}"


def _decimal(mean: float, se: float | None, *, places: int, suffix: str = "") -> EstimateText:
    """`places` decimals, and up to three more where fewer would write a nonzero number as zero."""
    smallest = abs(se if se else mean)
    if smallest > 0:
        # 1e-9: log10 of an exact power of ten may land just below the whole number.
        places = min(max(places, -math.floor(math.log10(smallest) + 1e-9)), places + 3)
    return EstimateText(f"{mean:,.{places}f}", None if se is None else f"{se:,.{places}f}", suffix)


_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
UNITS: dict[str, Callable[[float, float | None], EstimateText]] = {
    "count": count,
    "percent": percent,
    "points": points,
    "loss": loss,
    "ms": milliseconds,
    "bytes": size,
    "score": score,
    "perplexity": perplexity,
}
