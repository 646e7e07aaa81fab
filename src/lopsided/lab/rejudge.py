"""Results that were written before ranges were judged by intervals, judged as they are now.

Version 0.1.0 judged a figure's value alone. Its result.json holds the value, the interval and the range in words, which
is all that the verdict takes.
"""

from __future__ import annotations

import math
import re
from typing import Any

from lopsided.finite import finite_or_none
from lopsided.lab.protocol import Expected, Judgement, Measured, verdict_of

NUMBER = r"(-?[\d.]+(?:e[-+]?\d+)?)"
RANGES = (f"at most {NUMBER}", f"at least {NUMBER}", f"{NUMBER} to {NUMBER}")
NOT_RECORDED = "no interval was recorded"


def judged(result: dict[str, Any], exact: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A result.json in which every figure has its `state`, and the verdict follows from these.

    A figure that has one is left as it is.

    Args:
        result: as it was read.
        exact: the figures, by their words, that were computed without sampling.
    """
    figures = [found if "state" in found else _judged(found, found["what"] in exact) for found in result["figures"]]
    return {**result, "figures": figures, "verdict": verdict_of(found["state"] for found in figures)}


def range_of(words: str) -> tuple[float | None, float | None]:
    """The ends of a range that `Expected.range` put in words.

    Example:
        >>> range_of("at least 0.02"), range_of("-0.6 to -0.4"), range_of("at most 1e-06")
        ((0.02, None), (-0.6, -0.4), (None, 1e-06))
    """
    most, least, both = (re.fullmatch(pattern, words) for pattern in RANGES)
    if both:
        return float(both[1]), float(both[2])
    return (float(least[1]) if least else None), (float(most[1]) if most else None)


def figure_of(expected: Expected, measured: Measured) -> dict[str, Any]:
    """A figure of result.json."""
    judgement = expected.judge(measured)
    return {
        "what": expected.what,
        "value": finite_or_none(measured.value),
        "interval": None if measured.interval is None else list(measured.interval),
        "tolerance": expected.range,
        "paper": expected.paper,
        "exact": expected.exact,
        **_told(judgement),
    }


def _judged(found: dict[str, Any], exact: bool) -> dict[str, Any]:
    low, high = range_of(found["tolerance"])
    value = math.nan if found["value"] is None else found["value"]
    interval = None if found["interval"] is None or None in found["interval"] else tuple(found["interval"])
    measured = Measured(value=value, interval=interval, why="" if interval else NOT_RECORDED)
    # Without the paper's figure: a range of the past may leave it out.
    return {
        **found,
        "exact": exact,
        **_told(Expected(what=found["what"], low=low, high=high, exact=exact).judge(measured)),
    }


def _told(judgement: Judgement) -> dict[str, Any]:
    holds = {"holds": True, "fails": False, "undecided": None}[judgement.state]
    return {"holds": holds, "state": judgement.state, **({"why": {"state": judgement.why}} if judgement.why else {})}
