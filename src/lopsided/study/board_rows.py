"""What a leaderboard is made of: entries with finished runs become rows; what has no row is absent, with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lopsided.method import Method
from lopsided.runs import Run
from lopsided.study.board_cells import BoardCell


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What has a row: one method with one set of settings, and its finished runs, one per seed."""

    label: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class Absence:
    """What has no row, and why.

    Args:
        run: the run; None where a whole method of a comparison is absent.
    """

    label: str
    why: str
    run: Run | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method with one set of settings: its runs, and a cell for every column.

    Args:
        same_as: the label of an earlier row with the same parts and settings: with the same seed it is the same run.
        cells: by the column's key.
    """

    label: str
    runs: tuple[Run, ...]
    cells: Mapping[str, BoardCell]
    same_as: str | None = None

    @property
    def method(self) -> Method:
        """The method, with the chain that its runs had."""
        return self.runs[0].method

    @property
    def floor(self) -> bool:
        """Whether the row is the floor, which does not compete."""
        return self.method.side.head_alone

    @property
    def trains(self) -> str:
        """What the method trains, in words."""
        return self.method.side.title

    @property
    def links(self) -> int:
        """How many links the runs' chain has; 1 without a chain."""
        return self.runs[0].links

    @property
    def learning_rate(self) -> float:
        """The learning rate at its highest."""
        return self.runs[0].learning_rate

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(run.seed for run in self.runs)
