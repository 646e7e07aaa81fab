"""Results that were written before ranges were judged by intervals, judged as they are now.

Version 0.1.0 judged a figure's value alone. Its result.json holds the value, the interval and the range in words, from
which the verdict follows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from lopsided.lab.protocol import Expected, Measured, verdict_of
from lopsided.lab.recorded_figure import judgement_to_json

NUMBER = r"(-?[\d.]+(?:e[-+]?\d+)?)"
RANGES = (f"at most {NUMBER}", f"at least {NUMBER}", f"{NUMBER} to {NUMBER}")
NOT_RECORDED = "no interval was recorded"


def judged(result: Mapping[str, Any], exact: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return a result.json in which every figure has its `state`, and the verdict follows from these.

    A figure that has one is left as it is.

    Args:
        result: as it was read.
        exact: the figures, by their words, that were computed without sampling.
    """
    figures = [entry if "state" in entry else _judged(entry, entry["what"] in exact) for entry in result["figures"]]
    return {**result, "figures": figures, "verdict": verdict_of(entry["state"] for entry in figures)}


def range_of(words: str) -> tuple[float | None, float | None]:
    """Return the ends of a range that `Expected.range` put in words.

    Example:
        >>> range_of("at least 0.02"), range_of("-0.6 to -0.4"), range_of("at most 1e-06")
        ((0.02, None), (-0.6, -0.4), (None, 1e-06))
    """
    most, least, both = (re.fullmatch(pattern, words) for pattern in RANGES)
    if both:
        return float(both[1]), float(both[2])
    return (float(least[1]) if least else None), (float(most[1]) if most else None)


def _judged(entry: Mapping[str, Any], exact: bool) -> dict[str, Any]:
    low, high = range_of(entry["tolerance"])
    value = math.nan if entry["value"] is None else entry["value"]
    interval = None if entry["interval"] is None or None in entry["interval"] else tuple(entry["interval"])
    measured = Measured(value=value, interval=interval, why="" if interval else NOT_RECORDED)
    # Without the paper's figure: a range of an earlier version may leave it out.
    judgement = Expected(what=entry["what"], low=low, high=high, exact=exact).judge(measured)
    return {**entry, "exact": exact, **judgement_to_json(judgement.state, judgement.why)}
