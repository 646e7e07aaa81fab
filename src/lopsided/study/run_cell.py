"""One cell, made: what every worker does, in this process or in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from types import TracebackType
from typing import Any

from transformers import TrainerCallback

from lopsided.diagnose import diagnose_runs
from lopsided.method import METHODS
from lopsided.runs import Run, train
from lopsided.runs.ending import reason
from lopsided.runs.inputs import Prepared
from lopsided.runs.memory import memory_free
from lopsided.runs.model_cache import ModelCache
from lopsided.runs.needs import bytes_of_weights, lack_of_memory
from lopsided.study.cell import NUMERICS, Cell
from lopsided.study.results import SCHEMA, Status, packed
from lopsided.study.study_file import Diagnose

# Where this many times a model's weights are free, its training fits whatever is trained.
SMALL = 30


def run_cell(
    cell: Cell, cache: ModelCache, *, callbacks: Sequence[TrainerCallback] = (), command: str | None = None
) -> dict[str, Any]:
    """Train a cell, going on where an earlier process left it, and return its line of results.

    An error of any type is the cell's own: it is in the line, and the other cells are made. What ends the process, such
    as Ctrl-C, passes.

    Args:
        cache: of models and rows that the process has loaded already.
        callbacks: for the Trainer.
        command: for the run's record.
    """
    # A process that was not started by the study, such as a worker's, does not know its variants.
    if ":" not in cell.method.name:
        METHODS.setdefault(cell.method.name, cell.method)
    errors: list[str] = []
    with ExitStack() as failure:
        failure.push(partial(_keep, errors))
        if lacking := _lack_of_memory(cell, cache):
            return line_of(cell, "skipped", lacking)
        prepared = Prepared(load=cache.inputs, checked=True)
        run = train(cell.config, resume=True, prepared=prepared, callbacks=callbacks, command=command)
        diagnosis = None if cell.diagnose is None else _diagnosed(run, cell.diagnose)
    if errors:
        return line_of(cell, "failed", errors[0])
    return {**line_of(cell, "finished", run=run), "diagnosis": diagnosis}


def _lack_of_memory(cell: Cell, cache: ModelCache) -> str | None:
    """Return why a cell does not fit into the memory that is free; None if it does.

    A model that takes a small part of it is not tried.
    """
    config = cell.config
    data = cache.data(config)
    if SMALL * bytes_of_weights(config, data) < memory_free().for_training:
        return None
    return lack_of_memory(config, data, cache.inputs)


def line_of(cell: Cell, status: Status, reason: str | None = None, run: Run | None = None) -> dict[str, Any]:
    """Return the line of results of a cell that has ended."""
    config = cell.config
    settings = {key: value for key, value in config.to_json().items() if value is not None}
    return {
        "schema": SCHEMA,
        "cell": cell.key,
        "role": cell.role,
        "status": status,
        "reason": reason,
        "model": config.model,
        "task": config.task,
        "method": config.method,
        "seed": config.seed,
        "settings": {key: value for key, value in settings.items() if key not in ("model", "task", "method", "seed")},
        "sources": dict(cell.sources),
        "model_fingerprint": cell.model_fingerprint,
        "task_fingerprint": cell.task_fingerprint,
        "numerics": NUMERICS,
        "folder": config.out.name,
        "record": None if run is None else {key: value for key, value in run.to_json().items() if key != "history"},
        "rows": None if run is None else packed(run.predictions),
        "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _diagnosed(run: Run, diagnose: Diagnose) -> dict[str, Any]:
    """Diagnose a finished run, and return the sections' figures, without those of single layers."""
    diagnosis = diagnose_runs([run.folder], diagnose.config, resume=True)[run.folder]
    return {name: without_layers(diagnosis[name]) for name in diagnose.only if name in diagnosis}


def without_layers(value: Any) -> Any:
    """Return what a section found, without what it found of every layer: means in place of a list of layers.

    Example:
        >>> without_layers({"mean": 2.0, "by_layer": {"a": 1}})
        {'mean': 2.0}
        >>> without_layers([{"module": "a", "delta": {"norm": 1.0}}, {"module": "b", "delta": {"norm": 3.0}}])
        {'delta': {'norm': 2.0}}
    """
    if isinstance(value, Mapping):
        return {key: without_layers(inner) for key, inner in value.items() if not str(key).startswith("by_")}
    if isinstance(value, list) and value and all(isinstance(each, Mapping) and "module" in each for each in value):
        return _mean(value)
    return value


def _mean(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over layers of all numbers that every layer has."""
    means: dict[str, Any] = {}
    for key, first in layers[0].items():
        values = [layer.get(key) for layer in layers]
        if all(isinstance(value, Mapping) for value in values) and first:
            means[key] = _mean([value for value in values if isinstance(value, Mapping)])
        elif all(type(value) in (int, float) for value in values):
            means[key] = sum(float(value) for value in values if value is not None) / len(values)
    return means


def _keep(
    errors: list[str], kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
) -> bool:
    """End a `with` block quietly that failed, and keep the reason; what is no `Exception` passes."""
    if not isinstance(error, Exception):
        return False
    errors.append(reason(error))
    return True
