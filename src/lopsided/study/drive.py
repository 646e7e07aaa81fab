"""The loop of a study: hands cells to a backend, writes down what becomes of them, and tunes rates on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from lopsided.study.backend import Backend
from lopsided.study.cell import Cell
from lopsided.study.results import Result, append
from lopsided.study.run_cell import line_of
from lopsided.study.study_file import Tuning
from lopsided.study.tuning import Tuner, by_family

Told = Callable[[Cell, Result, bool], None]
Placed = Callable[[Cell], Cell]


class Drive:
    """One pass over the cells of a study.

    Args:
        backend: makes cells.
        results: what has ended already, by key; grows.
        path: the results file that lines are added to.
        placed: gives a cell the folder that it is made in.
        retry: whether cells that failed are made again.
        start: hears, before the first cell is made, how many there are with those that had ended before.
        tell: hears of every cell that has ended, and whether it did so now; those that had ended before come first.
    """

    def __init__(
        self,
        backend: Backend,
        results: dict[str, Result],
        path: Path,
        *,
        placed: Placed,
        retry: bool = False,
        start: Callable[[int], None] = lambda total: None,
        tell: Told = lambda cell, result, made: None,
    ) -> None:
        self.backend, self.results, self.path = backend, results, path
        self.placed, self.retry, self.start, self.tell = placed, retry, start, tell
        self._ready: deque[Cell] = deque()
        self._tuners: dict[str, Tuner] = {}
        self._running = 0

    def run(self, cells: Sequence[Cell], tuning: Tuning | None) -> dict[str, Result]:
        """Make every cell that is not finished, and return the results of all, by key.

        With tuning, the cells of one method on one model and task wait for its trials, and are made with its best rate.
        """
        if tuning is None:
            for cell in cells:
                self._begin(cell)
        else:
            for family in by_family(cells).values():
                self._tune(Tuner(cells=family, tuning=tuning))
        trials = 0 if tuning is None else tuning.trials * len(by_family(cells))
        self.start(len(cells) + trials)
        while self._ready or self._running:
            while self._ready and self._running < self.backend.slots:
                self.backend.submit(self._ready.popleft())
                self._running += 1
            cell, line = self.backend.next()
            self._running -= 1
            append(self.path, line)
            self._end(cell, Result(data=line, folder=self.path.parent), made=True)
        return self.results

    def _tune(self, tuner: Tuner) -> None:
        # All trials are asked for before one is begun: one that has ended already is told at once.
        trials = [self.placed(trial) for trial in tuner.trials()]
        self._tuners |= {trial.key: tuner for trial in trials}
        for trial in trials:
            self._begin(trial)

    def _begin(self, cell: Cell) -> None:
        """Put a cell in the queue, unless it has ended, here or elsewhere."""
        result = self.results.get(cell.key)
        if result is not None and (result.is_finished or not self.retry):
            self._end(cell, result, made=False)
        else:
            self._ready.append(cell)

    def _end(self, cell: Cell, result: Result, *, made: bool) -> None:
        self.results[cell.key] = result
        self.tell(cell, result, made)
        tuner = self._tuners.pop(cell.key, None)
        if tuner is None or not tuner.tell(result):
            return
        tuned = tuner.tuned()
        for each in tuned:
            self._begin(self.placed(each))
        if not tuned:
            self._give_up(tuner)

    def _give_up(self, tuner: Tuner) -> None:
        """Write down that a method's cells could not be begun, since none of its trials ended with a figure."""
        for cell in map(self.placed, tuner.cells):
            line = line_of(cell, "failed", f"none of the {tuner.tuning.trials} trials of its learning rate has a score")
            append(self.path, line)
            self._end(cell, Result(data=line, folder=self.path.parent), made=True)
