"""The progress bars of long verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@contextmanager
def bar(console: Console) -> Iterator[Callable[[str, int], Sequence[Any]]]:
    """Show the progress of runs inside the context; it yields a function from method and seed to a run's callbacks.

    A terminal gets a live display; a pipe or a file gets a line for each run whose steps are done,
    and for long runs one per evaluation.
    """
    from lopsided.runs.progress import ProgressBar, ProgressLine

    if not console.is_terminal:
        yield lambda method, seed: [ProgressLine(console.file, label_of(method, seed))]
        return
    with progress_of_runs(console) as progress:
        yield lambda method, seed: [ProgressBar(progress, label_of(method, seed))]


def progress_of_runs(console: Console) -> Progress:
    """Return the bars of runs, one per run, each with the time left and a note."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console)


def early(console: Console) -> Callable[[str], None]:
    """Return a function that says at a terminal, before the first step, how the rows are read.

    A pipe reads it with the result.
    """

    def say(text: str) -> None:
        if console.is_terminal:
            console.print(read_as(text), markup=False, highlight=False)

    return say


def read_as(shape: str) -> str:
    """Return how the rows were read, as a line or a part of one.

    Control characters of a user's column names are replaced: a terminal would obey them.
    """
    printable = "".join(character if character.isprintable() else "�" for character in shape)
    return f"rows read as {printable}" if shape else ""


def label_of(method: str, seed: int) -> str:
    """Return the name of a run on a screen."""
    return f"{method} {seed}" if seed else method
