"""The progress bars of long verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(console: Any) -> Iterator[Callable[[str, int], Sequence[Any]]]:
    """A live display; what it yields gives the callbacks of one run, by method and seed.

    A pipe or a file gets a line for each run that has ended.
    """
    from lopsided.runs.progress import ProgressBar, ProgressLine

    if not console.is_terminal:
        yield lambda method, seed: [ProgressLine(console.file, _label(method, seed))]
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield lambda method, seed: [ProgressBar(progress, _label(method, seed))]


def early(console: Any) -> Callable[[str], None]:
    """What tells a person at a terminal how the rows are read before the first step; a pipe gets it with the result."""

    def tell(text: str) -> None:
        if console.is_terminal:
            console.print(read_as(text), markup=False, highlight=False)

    return tell


def read_as(shape: str) -> str:
    """How the rows were read, as a line or a part of one; control characters of a user's column names do not pass."""
    printable = "".join(character if character.isprintable() else "�" for character in shape)
    return f"rows read as {printable}" if shape else ""


def _label(method: str, seed: int) -> str:
    return f"{method} {seed}" if seed else method
