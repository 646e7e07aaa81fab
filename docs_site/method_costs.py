"""What a method costs, from the committed results of the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.measuring import RESULTS
from lopsided.study.markdown import markdown_table


@dataclass(frozen=True, kw_only=True)
class CostFigure:
    """A figure of a benchmark.

    Args:
        what: in words.
        result: the file under `docs/performance`, without its ending.
        key: of the figure in a variant's entry.
        suffix: of the variant's name after the method's: "@2" is a chain at its third link.
        part: of the result, where it has parts.
    """

    what: str
    result: str
    key: str
    suffix: str = ""
    part: str | None = None


FIGURES = (
    CostFigure(what="a training step, against the frozen model's", result="step_time", key="to_limit"),
    CostFigure(what="the same, against stock PEFT LoRA's", result="step_time", key="to_peft_lora"),
    CostFigure(what="at the third link, against the frozen model's", result="step_time", key="to_limit", suffix="@2"),
    CostFigure(
        what="a step in bfloat16 on a Llama shape, against the frozen model's",
        result="llama",
        key="to_limit",
        part="bfloat16",
    ),
    CostFigure(what="bytes kept for backward, against stock PEFT LoRA's", result="memory", key="kept_to_peft_lora"),
    CostFigure(what="peak of the process, against stock PEFT LoRA's", result="memory", key="peak_to_peft_lora"),
    CostFigure(what="file per link, against stock PEFT LoRA's", result="files", key="file_to_peft_lora"),
    CostFigure(what="an advance, in training steps", result="scaling", key="advance_in_steps"),
    CostFigure(what="a step at the longest chain, against its first link's", result="scaling", key="longest_to_first"),
)


def cost_table(name: str) -> str:
    """Return what the benchmarks measured of a variant of that name, and on which machine; nothing if nothing."""
    rows = []
    for figure in FIGURES:
        result = _result(figure.result)
        figures = result["figures"] if figure.part is None else result["parts"][figure.part]["figures"]
        measured = figures.get(name + figure.suffix, {}).get(figure.key)
        if measured is not None:
            rows.append([figure.what, _interval(measured), _machine(result)])
    return markdown_table(["figure", "ratio, with its 95 % interval", "measured on"], rows) if rows else ""


@cache
def _result(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def _interval(measured: Mapping[str, float]) -> str:
    median, low, high = (f"{measured[key]:.2f}" for key in ("median", "low", "high"))
    return median if low == high else f"{median} [{low}, {high}]"


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['processor']}, {machine['cores']} cores, {result['date']}"
