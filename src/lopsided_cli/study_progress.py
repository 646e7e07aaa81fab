"""How a study shows where it is: cells done and running, time left, and the leaderboard so far."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lopsided_cli.progress import label_of, progress_of_runs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from lopsided.runs import Run
    from lopsided.study.cell import Cell
    from lopsided.study.plan import StudyPlan
    from lopsided.study.results import Result

# Lines of a terminal that the leaderboard leaves to the bars, to its own heading and to what it leaves out.
OTHER_LINES = 10


class StudyProgress(ABC):
    """Count the cells of a study, and call the subclass to show them.

    Args:
        console: where the progress is shown.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.title = ""
        self.total = self.done = self.made = 0
        self.since = time.monotonic()

    @abstractmethod
    def show_start(self, text: str) -> None:
        """Show how many cells there are."""

    @abstractmethod
    def show_end(self, cell: Cell, result: Result, text: str) -> None:
        """Show that a cell has ended now."""

    @abstractmethod
    def callbacks(self, cell: Cell) -> Sequence[Any]:
        """Return the callbacks of a cell's Trainer; cells in other processes have none."""

    def begin(self, plan: StudyPlan) -> None:
        """Take the plan."""
        self.title = plan.study.title

    def start(self, total: int) -> None:
        """Say how many cells there are, those that had ended before among them, and start the clock."""
        self.total, self.since = total, time.monotonic()
        before = f", {self.done} of them before now" if self.done else ""
        self.show_start(f"{self.title}: {total} cells{before}, {total - self.done} to be made")

    def tell(self, cell: Cell, result: Result, made: bool) -> None:
        """Count a cell that has ended, and show one that has ended now."""
        self.done += 1
        if made:
            self.made += 1
            outcome = _score(result.run) if result.is_finished else f"{result.status}: {result.reason}"
            self.show_end(cell, result, f"{self.done} of {self.total}{self.left} | {cell.label}: {outcome}")

    @property
    def left(self) -> str:
        """How long the study still takes at the pace of the cells made so far, in words; "" before the first."""
        from lopsided.formatting import duration

        if not self.made or self.done == self.total:
            return ""
        seconds = (time.monotonic() - self.since) / self.made * (self.total - self.done)
        return f", {duration(seconds)} left"


class StudyLines(StudyProgress):
    """Writes lines where a display can't move: one per cell, and for long cells one per evaluation."""

    def show_start(self, text: str) -> None:
        """Write the first line."""
        self._write(text)

    def show_end(self, cell: Cell, result: Result, text: str) -> None:
        """Write the cell's line."""
        self._write(text)

    def callbacks(self, cell: Cell) -> Sequence[Any]:
        """Return callbacks that write lines during a long run; `show_end` writes the line at its end."""
        from lopsided.runs.progress import ProgressLine

        return [ProgressLine(self.console.file, cell.label, at_end=False)]

    def _write(self, text: str) -> None:
        print(text, file=self.console.file, flush=True)


class RunLines(StudyLines):
    """Writes a line for each run alone, as `lopsided train` does."""

    def show_start(self, text: str) -> None:
        """Write nothing: the lines say what runs."""

    def show_end(self, cell: Cell, result: Result, text: str) -> None:
        """Write nothing: the run has written its line."""

    def callbacks_of(self, method: str, seed: int) -> Sequence[Any]:
        """Return what writes a run's lines."""
        from lopsided.runs.progress import ProgressLine

        return [ProgressLine(self.console.file, label_of(method, seed))]


class StudyDisplay(StudyProgress):
    """Keeps a live display up to date: the study's bar, the bar of the running cell, and the leaderboard so far.

    Args:
        live: shows it.
        cells, runs: the bars.
    """

    def __init__(self, console: Console, live: Live, cells: Progress, runs: Progress) -> None:
        super().__init__(console)
        self.live, self.cells, self.runs = live, cells, runs
        self.bar = cells.add_task("cells", total=None, left="", note="")
        self.board = SoFar()

    def start(self, total: int) -> None:
        """Say how many cells there are, and set the bar."""
        super().start(total)
        self.cells.reset(self.bar, total=total, completed=self.done, left="", note="")

    def tell(self, cell: Cell, result: Result, made: bool) -> None:
        """Count a cell that has ended, in the leaderboard as well."""
        self.board.add(cell, result)
        super().tell(cell, result, made)

    def show_start(self, text: str) -> None:
        """Write it above the display."""
        self.console.print(text, highlight=False, markup=False)
        self._refresh()

    def show_end(self, cell: Cell, result: Result, text: str) -> None:
        """Move the study's bar, remove the cell's, and show the cell's leaderboard; a failure is printed above them."""
        if not result.is_finished:
            self.console.print(text, highlight=False, markup=False, style="red", soft_wrap=True)
        for bar in list(self.runs.task_ids):
            self.runs.remove_task(bar)
        self.cells.update(self.bar, completed=self.done, left=self.left.removeprefix(", "))
        self._refresh()

    def callbacks(self, cell: Cell) -> Sequence[Any]:
        """Return what moves the cell's bar."""
        from lopsided.runs.progress import ProgressBar

        return [ProgressBar(self.runs, cell.label)]

    def callbacks_of(self, method: str, seed: int) -> Sequence[Any]:
        """Return what moves a run's bar."""
        from lopsided.runs.progress import ProgressBar

        return [ProgressBar(self.runs, label_of(method, seed))]

    def _refresh(self) -> None:
        from rich.console import Group

        board = self.board.shown(most=max(1, self.console.height - OTHER_LINES))
        self.live.update(Group(self.cells, self.runs, *board), refresh=True)


class SoFar:
    """The leaderboard of the cell that ended last: each method's mean score so far.

    Args:
        expected: methods that have their rows from the start.
    """

    def __init__(self, expected: Sequence[str] = ()) -> None:
        self.expected = tuple(expected)
        self._runs: dict[tuple[str, str], dict[str, list[Run]]] = {}
        self._trials: dict[tuple[str, str], dict[str, int]] = {}
        self._last: tuple[str, str] | None = None

    def add(self, cell: Cell, result: Result) -> None:
        """Take a cell that has ended."""
        if not result.is_finished:
            return
        self._last = cell.board
        runs, trials = self._runs.setdefault(cell.board, {}), self._trials.setdefault(cell.board, {})
        if cell.role == "trial":
            trials[cell.entry] = trials.get(cell.entry, 0) + 1
        else:
            runs.setdefault(cell.entry, []).append(result.run)

    def shown(self, *, most: int) -> list[Text | Table]:
        """Return a title and a table of the best methods, at most so many.

        Without `expected` methods the list is empty until the first cell has finished.
        """
        from rich.table import Table
        from rich.text import Text

        if self._last is None and not self.expected:
            return []
        runs = self._runs[self._last] if self._last else {}
        trials = self._trials[self._last] if self._last else {}
        rows = sorted(runs, key=lambda name: _place(runs[name]))
        first = next(iter(runs.values()))[0] if runs else None
        heading = "score" if first is None else f"{_split(first)} {first.task.metric.replace('_', ' ')}"
        table = Table(box=None, pad_edge=False)
        for name in ("method", heading, "runs", *(["trials"] if trials else [])):
            table.add_column(name, justify="left" if name == "method" else "right")
        names = list(dict.fromkeys([*rows, *trials, *self.expected]))
        for name in names[:most]:
            score = _mean_text(runs[name]) if name in runs else ""
            cells = [name, score, str(len(runs.get(name, ()))), *([str(trials.get(name, 0))] if trials else [])]
            table.add_row(*map(Text, cells))
        if len(names) > most:
            table.add_row(f"and {len(names) - most} more")
        titles = [] if self._last is None else [Text("{1} with {0}".format(*self._last), style="bold")]
        return [*titles, table]


@contextmanager
def progress(console: Console) -> Iterator[StudyProgress]:
    """Show the progress of a study inside the context: a live display at a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield StudyLines(console)
        return
    from rich.console import Group
    from rich.live import Live

    cells, runs = progress_of_runs(console), progress_of_runs(console)
    # The tables come after it, so it leaves nothing.
    with Live(Group(cells, runs), console=console, transient=True) as live:
        yield StudyDisplay(console, live, cells, runs)


@contextmanager
def comparing(console: Console, title: str, methods: Sequence[str]) -> Iterator[RunLines | StudyDisplay]:
    """Show the progress of a comparison inside the context: at a terminal its table, with a row for each method."""
    shown: RunLines | StudyDisplay
    if not console.is_terminal:
        shown = RunLines(console)
        shown.title = title
        yield shown
        return
    with progress(console) as display:
        assert isinstance(display, StudyDisplay)
        display.title, display.board = title, SoFar(methods)
        yield display


def _split(run: Run) -> str:
    return "test" if "test" in run.metrics else "validation"


def _value(run: Run) -> float | None:
    return run.metrics[_split(run)].score.value


def _score(run: Run) -> str:
    from lopsided.formatting import number_text

    return f"{_split(run)} {run.task.metric} {number_text(_value(run), '.4f')}"


def _mean(runs: Sequence[Run]) -> float | None:
    values = [value for run in runs if (value := _value(run)) is not None]
    return sum(values) / len(values) if values else None


def _mean_text(runs: Sequence[Run]) -> str:
    from lopsided.formatting import number_text

    return number_text(_mean(runs), ".4f")


def _place(runs: Sequence[Run]) -> tuple[bool, float]:
    """Return what methods are sorted by: the best score first, those without one last."""
    mean, sign = _mean(runs), -1.0 if runs[0].task.greater_is_better else 1.0
    return mean is None, sign * (mean or 0.0)
