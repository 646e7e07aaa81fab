"""Where cells are made: the contract, and this process."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback

from lopsided.runs.model_cache import ModelCache
from lopsided.study.cell import Cell
from lopsided.study.run_cell import run_cell

CellCallbacks = Callable[[Cell], Sequence[TrainerCallback]]


class Backend(abc.ABC):
    """Makes cells, some at a time.

    `submit` hands one over, `next` waits for one that has ended. A cell that was handed over ends once, with the line
    of its results.
    """

    @property
    @abc.abstractmethod
    def slots(self) -> int:
        """How many cells it makes at a time."""

    @abc.abstractmethod
    def submit(self, cell: Cell) -> None:
        """Begin a cell, or put it in the queue."""

    @abc.abstractmethod
    def next(self) -> tuple[Cell, dict[str, Any]]:
        """Return a cell that has ended, and its line of results; waits for one."""

    def close(self) -> None:  # noqa: B027
        """Give back what the backend holds."""


class Local(Backend):
    """One cell after the other, in this process.

    Args:
        cache: of models and rows that the process has loaded already.
        callbacks: for a cell's Trainer.
        command: for the runs' records.
    """

    def __init__(
        self, cache: ModelCache, callbacks: CellCallbacks = lambda cell: (), command: str | None = None
    ) -> None:
        self.cache, self.callbacks, self.command = cache, callbacks, command
        self._cells: deque[Cell] = deque()

    @property
    def slots(self) -> int:
        """One."""
        return 1

    def submit(self, cell: Cell) -> None:
        """Put a cell in the queue."""
        self._cells.append(cell)

    def next(self) -> tuple[Cell, dict[str, Any]]:
        """Make the first cell of the queue."""
        cell = self._cells.popleft()
        return cell, run_cell(cell, self.cache, callbacks=self.callbacks(cell), command=self.command)
