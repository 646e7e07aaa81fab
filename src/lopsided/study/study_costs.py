"""The costs of a study's methods: cells of their own, per model, shape of a task and machine, after the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.files.strict_json import dumps
from lopsided.runs.measure import machine
from lopsided.runs.model_cache import ModelCache
from lopsided.stats import Median
from lopsided.study.cell import Cell
from lopsided.study.costs import CostTable, MethodCost, measure_costs
from lopsided.study.markdown import markdown_table
from lopsided.study.results import append
from lopsided.study.study_file import Costs

COSTS = "costs.jsonl"
SCHEMA = 1
# Of a run's settings, those that a step's cost depends on.
_SHAPE = ("rank", "batch_size", "target_modules", "max_length", "bf16", "dropout")


def measure_study(
    cells: Sequence[Cell],
    costs: Costs,
    path: Path,
    cache: ModelCache,
    *,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure what is not in the file yet, and add a line per model, task and shape.

    Args:
        cells: of the study; each method is measured once per shape.
        path: of the lines, which hold `cost` (a hash of what was measured and where) and `table`.
        cache: of models and rows that are loaded already.
        note: tells a person how far the work is.
    """
    there = {line["cost"] for line in _lines(path)}
    for shape, methods in _shapes(cells).items():
        config = methods[0].config
        names = [cell.config.method for cell in methods]
        key = hashlib.sha256(dumps([shape, names, costs.rounds, machine()], indent=None).encode()).hexdigest()[:16]
        if key in there:
            continue
        inputs = cache.inputs(config)
        table = measure_costs(config, names, rounds=costs.rounds, inputs=inputs, note=note)
        append(path, {"schema": SCHEMA, "cost": key, "table": table.to_json()})


def read_costs(path: Path) -> list[CostTable]:
    """Return the tables of a file of costs; none if there is no file."""
    return [CostTable.from_json(line["table"]) for line in _lines(path)]


def costs_text(tables: Sequence[CostTable]) -> str:
    """Return the tables in Markdown: multiples of the frozen model's step, with 95 % intervals over rounds."""
    parts = ["## What a step costs\n"] if tables else []
    for table in tables:
        device = table.machine["accelerator"] or table.machine["processor"]
        parts.append(
            f"{table.task} with {table.model}, {table.rows} rows, {table.rounds} rounds in shuffled turns on {device}; "
            f"the frozen model's twin: {_words(table.twin)}\n"
        )
        rows = [[line.method, _words(line.step_time), f"{line.kept:.2f}", _peak(line)] for line in table.methods]
        parts.append(markdown_table(["method", "step x frozen", "kept x frozen", "peak memory (CUDA)"], rows))
    return "\n".join(parts)


def _words(median: Median) -> str:
    return f"{median.value:.3f} [{median.low:.3f}, {median.high:.3f}]"


def _peak(line: MethodCost) -> str:
    return "–" if line.peak_bytes is None else f"{line.peak_bytes / 2**20:,.0f} MiB"


def _shapes(cells: Sequence[Cell]) -> dict[tuple[object, ...], list[Cell]]:
    """Return the cells by what a step's cost depends on, one per method."""
    shapes: dict[tuple[object, ...], dict[str, Cell]] = {}
    for cell in cells:
        settings = (getattr(cell.config, name) for name in _SHAPE)
        shape = (cell.model_fingerprint, cell.task_fingerprint, *settings)
        shapes.setdefault(shape, {}).setdefault(cell.config.method, cell)
    return {shape: list(methods.values()) for shape, methods in shapes.items()}


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield json.loads(text)
        except json.JSONDecodeError as error:
            raise LopsidedError(f"{path}:{number}: not JSON ({error.msg}); take the line out") from error
