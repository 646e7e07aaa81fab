"""What `lopsided bench --plan` prints: a line per model and task, and every chosen setting once, with who says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lopsided_cli.printing import print_table

if TYPE_CHECKING:
    from lopsided.study.plan import PlannedCell, StudyPlan

GIB = 2**30
# A setting as it is printed: its name, its value, and who says so.
Said = tuple[str, str, str]


def print_plan(plan: StudyPlan) -> None:
    """Print what a study will do."""
    from lopsided.formatting import duration

    boards: dict[tuple[str, str], list[PlannedCell]] = {}
    for each in plan.cells:
        boards.setdefault(each.cell.board, []).append(each)
    heads = ["model", "task", "methods", "cells", "steps", "time", "memory"]
    print_table(heads, [[*board, *_row(cells)] for board, cells in boards.items()], title=plan.study.title)
    if plan.cells:
        _print_settings({board: [each for each in cells if each.cell.role == "run"] for board, cells in boards.items()})
    if plan.study.tuning is not None:
        print(f"learning rates: chosen by {plan.study.tuning.trials} trials per method, model and task, on validation")
    total = "unknown" if plan.seconds is None else duration(plan.seconds)
    print(f"{len(plan.cells)} cells: {_counted(plan.counts())}")
    print(f"time, one after the other: {total}{_basis(plan)}")
    print(f"disk: at most {plan.disk_bytes / GIB:,.1f} GiB; memory of the largest cell: {_memory(plan.cells)}")
    for line in plan.downloads:
        print(f"not here: {line}")


def _row(cells: Sequence[PlannedCell]) -> list[str]:
    from lopsided.formatting import duration

    spans = [each.span for each in cells if each.span is not None]
    steps = sorted({each.steps for each in cells if each.steps is not None})
    counts = Counter(each.state for each in cells)
    trials = sum(each.cell.role == "trial" for each in cells)
    return [
        str(len({each.cell.entry for each in cells})),
        _counted(counts) + (f" (of these {trials} trials)" if trials else ""),
        "–" if not steps else f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}",
        duration(sum(span.seconds for span in spans)) if len(spans) == len(cells) else "unknown",
        _memory(cells),
    ]


def _counted(counts: Any) -> str:
    words = {"unavailable": "not here yet"}
    return ", ".join(f"{number} {words.get(state, state)}" for state, number in counts.items())


def _memory(cells: Sequence[PlannedCell]) -> str:
    largest = max((each.span.memory_bytes for each in cells if each.span is not None), default=None)
    return "unknown" if largest is None else f"{largest / GIB:,.1f} GiB"


def _basis(plan: StudyPlan) -> str:
    how = {each.span.how for each in plan.cells if each.span is not None}
    parts = ["a few steps that were timed here"] if "probe" in how else []
    if "arithmetic" in how and plan.study.machine is not None:
        machine = plan.study.machine
        parts.append(
            f"arithmetic, with all rows at their greatest length, for {machine.name} at {machine.tflops:g} TFLOPS"
        )
    return f" (by {'; by '.join(parts)})" if parts else ""


def _print_settings(boards: dict[tuple[str, str], list[PlannedCell]]) -> None:
    """Print the settings that somebody chose: those of all cells, then those of some models and tasks."""
    of_cells = [[set(_chosen(each)) for each in cells] for cells in boards.values()]
    shared = set.intersection(*(said for cells in of_cells for said in cells))
    print(f"settings of all: {_by_source(sorted(shared))}")
    texts: dict[str, list[str]] = {}
    for (model, task), cells in boards.items():
        if text := _own(cells, shared):
            texts.setdefault(text, []).append(f"{task} with {model}")
    for text, places in texts.items():
        print(f"{', '.join(places)}: {text}")


def _own(cells: Sequence[PlannedCell], shared: set[Said]) -> str:
    """Return the settings of a board that not all boards share, followed by each method's departures from them."""
    counts: dict[str, Counter[Said]] = {}
    for each in cells:
        for said in set(_chosen(each)) - shared:
            counts.setdefault(said[0], Counter())[said] += 1
    usual = {name: counter.most_common(1)[0][0] for name, counter in counts.items()}
    departures: dict[str, dict[Said, None]] = {}
    for each in cells:
        own = [said for said in _chosen(each) if said not in shared and usual[said[0]] != said]
        if own:
            departures.setdefault(each.cell.entry, {}).update(dict.fromkeys(own))
    parts = [_by_source(list(usual.values()))] if usual else []
    parts += [f"for {entry} {_by_source(list(own))}" for entry, own in departures.items()]
    return "; ".join(parts)


def _chosen(planned: PlannedCell) -> list[Said]:
    """Return the settings of a cell that the study gives; the rest is this library's."""
    return [
        (name, str(each.value), each.source)
        for name, each in planned.settings.items()
        if name in planned.cell.sources or each.source != "default"
    ]


def _by_source(said: Sequence[Said]) -> str:
    by_source: dict[str, list[str]] = {}
    for name, value, source in said:
        by_source.setdefault(source, []).append(f"{name}={value}")
    return "; ".join(f"{', '.join(names)} ({source})" for source, names in by_source.items()) or "none"
