"""How a study shows where it is: cells done and running, time left, and the leaderboard so far."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lopsided_cli.progress import bar

if TYPE_CHECKING:
    from rich.console import Console

    from lopsided.study.cell import Cell
    from lopsided.study.plan import StudyPlan
    from lopsided.study.results import Result


class StudyProgress:
    """Counts cells, and writes a line for each that has ended.

    Args:
        console: where to.
        of_run: from a label, the callbacks that show a run's own progress.
    """

    def __init__(self, console: Console, of_run: Any) -> None:
        self.console, self.of_run = console, of_run
        self.total = self.done = self.made = 0
        self.seconds = 0.0
        self._last = time.monotonic()

    def begin(self, plan: StudyPlan) -> None:
        """Say how many cells there are, and how many are still to be made."""
        self.total = len(plan.cells)
        left = len(plan.pending)
        self.console.print(f"{plan.study.title}: {self.total} cells, {left} to be made", highlight=False, markup=False)
        self._last = time.monotonic()

    def callbacks(self, cell: Cell) -> Sequence[Any]:
        """Return the callbacks of a cell's Trainer."""
        callbacks: Sequence[Any] = self.of_run(cell.label, 0)
        return callbacks

    def tell(self, cell: Cell, result: Result) -> None:
        """Write a line for a cell that has ended now; cells that had ended before are counted."""
        from lopsided.formatting import duration

        self.done += 1
        now = time.monotonic()
        spent, self._last = now - self._last, now
        if spent < 0.05 and result.is_finished:
            return
        self.made += 1
        self.seconds += spent
        left = duration(self.seconds / self.made * max(0, self.total - self.done))
        outcome = _score(result) if result.is_finished else f"{result.status}: {result.reason}"
        text = f"{self.done} of {self.total}, {left} left | {cell.label}: {outcome}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress(console: Console) -> Iterator[StudyProgress]:
    """Show the progress of a study inside the context: a live display at a terminal, plain lines elsewhere."""
    with bar(console) as of_run:
        yield StudyProgress(console, of_run)


def _score(result: Result) -> str:
    from lopsided.formatting import number_text

    run = result.run
    split = "test" if "test" in run.metrics else "validation"
    return f"{split} {run.task.metric} {number_text(run.metrics[split].score.value, '.4f')}"
