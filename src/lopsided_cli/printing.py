"""What verbs print: tables, JSON, and figures or a dash."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# What a table shows for a figure that could not be computed; the reason stands below it.
MISSING = "–"
# A pipe has no width: a table gets this many columns there.
PIPE_WIDTH = 150


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None, unbroken: Collection[str] = ()
) -> None:
    """Print a table as wide as the terminal.

    Args:
        headings: one per column.
        rows: the cells.
        title: a line above it.
        unbroken: headings of columns whose cells are not to be broken into lines.
    """
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, no_wrap=heading in unbroken, overflow="fold")
    for row in rows:
        table.add_row(*row)
    terminal().print(table)


def terminal() -> Console:
    """Return stdout as wide as the terminal is, or `PIPE_WIDTH` columns wide where it is none."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else PIPE_WIDTH)


def print_json(value: Any) -> None:
    """Print a record as strict JSON, for other programs."""
    from lopsided.files.strict_json import dumps

    print(dumps(value))


def figure(value: float | None, form: str = ".3g") -> str:
    """Return a number as text, or a dash for one that is missing or not finite.

    Example:
        >>> figure(0.51234, ".2f"), figure(None), figure(float("nan"))
        ('0.51', '–', '–')
    """
    from lopsided.formatting import number_text

    return number_text(value, form)
