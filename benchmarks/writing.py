"""How a figure, and whether it meets its target, is written in the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measuring import Interval

MISSING = "not measured"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, its first column to the left and the others to the right.

    Example:
        >>> print(markdown(["variant", "ms"], [["limit", "12"]]))
        | variant | ms |
        |---|---:|
        | limit | 12 |
    """
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" + "|---:" * (len(header) - 1) + "|", *lines[1:]])


def figure(value: Interval | None, places: int = 2) -> str:
    """The median with its interval, or the number alone where it is exact.

    Example:
        >>> figure({"median": 1.05, "low": 1.04, "high": 1.07}), figure({"median": 0.5, "low": 0.5, "high": 0.5})
        ('1.05 [1.04, 1.07]', '0.50')
    """
    if value is None:
        return ""
    if value["low"] == value["high"]:
        return f"{value['median']:.{places}f}"
    return f"{value['median']:.{places}f} [{value['low']:.{places}f}, {value['high']:.{places}f}]"


def verdict(value: Interval, at_most: float | None) -> str:
    """Whether the median meets the target, and whether its interval leaves a doubt.

    Example:
        >>> verdict({"median": 1.05, "low": 1.04, "high": 1.07}, 1.06)
        'met (the interval reaches above it)'
        >>> verdict({"median": 1.08, "low": 1.07, "high": 1.09}, 1.06)
        'missed by 0.020'
    """
    if at_most is None:
        return "reported"
    if value["median"] <= at_most:
        return "met" + (" (the interval reaches above it)" if value["high"] > at_most else "")
    doubt = " (the interval reaches below it)" if value["low"] <= at_most else ""
    return f"missed by {value['median'] - at_most:.3f}{doubt}"


def mebibytes(count: float) -> str:
    """Return bytes as text, in MiB."""
    return f"{count / 2**20:,.1f} MiB"


def provenance(result: Mapping[str, Any], runs: str) -> str:
    """One sentence: where, when and how often it was measured."""
    machine, versions, load = result["machine"], result["versions"], result["load_average"]
    where = machine["accelerator"] or f"{machine['processor']}, {machine['cores']} cores"
    return (
        f"{runs}, {result['date']}: {where}, {machine['threads']} threads, load average {load[0]:.1f} before and "
        f"{load[1]:.1f} after; torch {versions['torch']}, transformers {versions['transformers']}, "
        f"peft {versions['peft']}."
    )


def model_words(setting: Mapping[str, Any]) -> str:
    """The setting's model and batch, in words."""
    return (
        f"layers {setting['layers']}, hidden {setting['hidden']}, "
        f"batch {setting['batch']} x {setting['length']} tokens, r={setting['r']}, dropout {setting['dropout']:g}"
    )
