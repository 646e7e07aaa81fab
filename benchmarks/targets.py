"""The targets of the benchmarks, as data, and whether the measured figures meet them.

Every benchmark's result holds `figures`, by variant and by figure, as intervals, and `groups`, which says what group a
variant belongs to. A target looks at the worst variant of its group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import Interval
from benchmarks.variants import GROUPS
from benchmarks.writing import MISSING, figure, markdown, verdict


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound on one figure.

    Args:
        measure: the figure in words.
        benchmark, figure: where it is found.
        group: whose worst counts; None for all variants that have the figure.
        at_most: the bound; None where the figure is only reported.
        noisy: whether the bound says that nothing grows, so that the twin's noise is allowed for.
    """

    measure: str
    benchmark: str
    figure: str
    group: str | None = None
    at_most: float | None = None
    noisy: bool = False


def _row(measure: str, benchmark: str, figure: str, *bounds: float | None) -> list[Target]:
    bounds += (None,) * (len(GROUPS) - len(bounds))
    return [
        Target(measure=measure, benchmark=benchmark, figure=figure, group=group, at_most=bound)
        for group, bound in zip(GROUPS, bounds)
    ]


# The bounds stand in the order of GROUPS: windows, random columns, other B-training, A-training; what follows is
# reported.
TARGETS: tuple[Target, ...] = (
    *_row("step time against the limit", "step_time", "to_limit", 1.06, 1.09, 1.20),
    *_row("step time against PEFT LoRA", "step_time", "to_peft_lora", 0.80, 0.82, 0.88, 1.00),
    *_row("bytes kept for backward against PEFT LoRA", "memory", "kept_to_peft_lora", 0.66, 0.66, 0.66),
    *_row("adapter file against PEFT LoRA's, per link", "files", "file_to_peft_lora", 0.52, 0.52, 0.52, 0.52),
    Target(measure="an advance, in training steps", benchmark="scaling", figure="advance_in_steps", at_most=2.0),
    Target(
        measure="an advance's extra memory, in weights of the largest layer",
        benchmark="memory",
        figure="advance_in_weights",
        at_most=1.0,
    ),
    Target(
        measure="step time of the longest merged chain against its first link",
        benchmark="scaling",
        figure="longest_to_first",
        at_most=1.0,
        noisy=True,
    ),
    Target(
        measure="loading a one-link adapter of 24 layers against PEFT LoRA's",
        benchmark="files",
        figure="load_to_peft_lora",
        at_most=1.6,
    ),
)


def bound(target: Target, result: Mapping[str, Any]) -> float | None:
    """What the figure must not exceed: the target, or the twin's noise above it where nothing may grow."""
    if target.at_most is None or not target.noisy:
        return target.at_most
    return max(target.at_most, result["noise"]["high"])


def worst(target: Target, result: Mapping[str, Any]) -> tuple[str, Interval] | None:
    """The variant of the target's group with the highest median, and its figure; None where none was measured."""
    measured = {
        variant: figures[target.figure]
        for variant, figures in result["figures"].items()
        if target.figure in figures
        and variant in result["groups"]
        and target.group in (None, result["groups"][variant])
    }
    if not measured:
        return None
    return max(measured.items(), key=lambda item: item[1]["median"])


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return all targets with their figures as a table, from the results by benchmark."""
    rows = []
    for target in TARGETS:
        result = results.get(target.benchmark)
        found = None if result is None else worst(target, result)
        aimed = "reported" if target.at_most is None else f"at most {target.at_most:.2f}"
        row = [target.measure, target.group or "all", aimed]
        if result is None or found is None:
            rows.append([*row, MISSING, "", ""])
            continue
        variant, value = found
        noise = figure(result.get("noise"), places=3)
        rows.append([*row, f"{figure(value, places=3)} (`{variant}`)", verdict(value, bound(target, result)), noise])
    header = ["figure", "methods", "target", "measured, the worst of them", "verdict", "the twin's noise"]
    return markdown(header, rows)


def cell(value: Interval | None, benchmark: str, name: str, group: str | None) -> str:
    """Return a figure of one variant, with its target and verdict where its group has one."""
    aimed = [t for t in TARGETS if (t.benchmark, t.figure) == (benchmark, name) and t.group == group]
    if value is None or group is None or not aimed or aimed[0].at_most is None:
        return figure(value)
    return f"{figure(value)}; at most {aimed[0].at_most:.2f}: {verdict(value, aimed[0].at_most)}"
