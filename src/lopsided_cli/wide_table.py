"""Tables of the terminal, whose cells fold where it is narrow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# A pipe has no width of its own.
WIDTH_OF_A_PIPE = 150


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None, whole: str | None = None
) -> None:
    """Print a table.

    Args:
        headings, rows: the text of the cells; each row has one cell per heading.
        title: above the table, at its left.
        whole: the heading of a column that is never folded.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, no_wrap=heading == whole, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else WIDTH_OF_A_PIPE).print(table)
