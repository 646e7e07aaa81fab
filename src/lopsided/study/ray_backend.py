"""Cells on Ray: one task per cell, on the processes of this machine or on a cluster (extra `cluster`)."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError, first_line
from lopsided.plugins import load_plugin
from lopsided.runs.model_cache import ModelCache
from lopsided.study.backend import Backend
from lopsided.study.cell import Cell
from lopsided.study.run_cell import line_of, run_cell

# How often a cell is begun whose worker is lost: it may be the cell that kills it, by its need of memory.
ATTEMPTS = 3
# Of a worker process, which Ray keeps from one task to the next: base models and rows stay in its memory.
_cache = ModelCache()


class RayBackend(Backend):
    """One Ray task per cell.

    A cell whose worker is lost is begun again, from its last checkpoint where the new worker sees the same disk.

    Args:
        address: of a cluster, as for `ray.init`; None starts a local one that ends with the study.
        workers: cells at a time; None takes one per processor, or per GPU where the cluster has some.
        memory: bytes that a cell is expected to need, by its key; a worker is chosen that has them.
        command: for the runs' records. plugin: a file that every worker runs first, as this process has.

    Raises:
        LopsidedError: if Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        memory: Mapping[str, int] | None = None,
        command: str | None = None,
        plugin: Path | None = None,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise LopsidedError("--backend ray needs Ray, which is not installed; pip install 'lopsided[cluster]'")
        import ray

        local = {} if address else {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
        except ConnectionError as error:
            raise LopsidedError(
                f"--address {address}: no Ray cluster answers there ({first_line(error)}); start one with `ray start "
                "--head`, or leave --address out"
            ) from error
        self._ray, self._memory, self._command = ray, memory or {}, command
        self._plugin = None if plugin is None else plugin.absolute()
        resources = ray.cluster_resources()
        self._gpus = 1 if resources.get("GPU", 0) else 0
        self._slots = workers or int(resources.get("GPU", 0) or resources["CPU"])
        self._task = ray.remote(max_retries=0)(_make)
        self._cells: dict[Any, Cell] = {}
        self._begun: Counter[str] = Counter()

    @property
    def slots(self) -> int:
        """How many cells are made at a time."""
        return self._slots

    def submit(self, cell: Cell) -> None:
        """Hand a cell to the cluster."""
        absolute = dataclasses.replace(cell, config=dataclasses.replace(cell.config, out=cell.config.out.absolute()))
        needs = {"num_cpus": 1, "num_gpus": self._gpus, "memory": self._memory.get(cell.key, 0)}
        reference = self._task.options(**needs).remote(absolute, os.getcwd(), self._command, self._plugin)
        self._cells[reference] = cell
        self._begun[cell.key] += 1

    def next(self) -> tuple[Cell, dict[str, Any]]:
        """Return a cell that has ended; one whose worker was lost is begun again first."""
        errors = self._ray.exceptions
        lost = (
            *(errors.WorkerCrashedError, errors.NodeDiedError),
            *(errors.OutOfMemoryError, errors.LocalRayletDiedError),
        )
        while True:
            [reference], _ = self._ray.wait(list(self._cells), num_returns=1)
            cell = self._cells.pop(reference)
            try:
                line: dict[str, Any] = self._ray.get(reference)
            except lost as error:
                if self._begun[cell.key] < ATTEMPTS:
                    self.submit(cell)
                    continue
                reason = f"its worker was lost {ATTEMPTS} times, the last time to {type(error).__name__}"
                return cell, line_of(cell, "failed", reason)
            return cell, line

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self._ray.shutdown()


def _make(cell: Cell, folder: str, command: str | None, plugin: Path | None) -> dict[str, Any]:
    """Make a cell in a worker process."""
    # Paths of models and tasks are relative to where the study was started, where that is a folder here.
    if Path(folder).is_dir():
        os.chdir(folder)
    if plugin is not None:
        load_plugin(plugin)
    return run_cell(cell, _cache, command=command)
