"""A comparison in the terminal, with rich: figures first, the decision last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lopsided.formatting import MARKS, estimate_text
from lopsided.report.footnotes import lacking_notes, same_as_notes
from lopsided.study.board_cells import BoardCell
from lopsided.study.board_rows import Absence, Row
from lopsided.study.choice import tied_meaning
from lopsided.study.columns import SCORE, Column
from lopsided.study.leaderboard import Leaderboard

_STYLES = {"best": "bold green", "tied": ""}


class Tabled(Protocol):
    """What a table is printed of: a comparison, or one leaderboard of a study."""

    @property
    def title(self) -> str:
        """What stands above it."""

    @property
    def leaderboard(self) -> Leaderboard:
        """Its figures and sentences."""

    @property
    def seeds(self) -> Sequence[int]:
        """Of its runs."""

    @property
    def entries(self) -> Sequence[Row | Absence]:
        """Its rows in their order, and what has none."""

    @property
    def notes(self) -> Sequence[str]:
        """What else a reader must know of its rows, in lines below the table."""


def print_table(comparison: Tabled, console: Console) -> None:
    """Print the comparison, its legend and its sentences.

    What does not fit the console is left out by steps, and said: first the standard errors of all columns but the
    score, then columns from the right.

    Args:
        console: where to print; its width decides what is shown.

    Raises:
        ValueError: if a column's unit is unknown.
    """
    board = comparison.leaderboard
    table, cut = _fitting(comparison, console)
    console.print(Text(_printable(comparison.title), style="bold"))
    console.print(table)
    for absence in board.absent:
        lines = absence.why.strip().splitlines() or ["failed"]
        console.print(Text(f"{_printable(absence.label)}: {_printable(lines[0])}", style="red"))
    lacking = lacking_notes(board.columns, board.rows)
    for note in [_legend(comparison), *lacking, *same_as_notes(board.rows), *comparison.notes, *cut]:
        console.print(Text(_printable(note), style="dim"))
    if board.sentences:
        console.print()
    for sentence in board.sentences:
        console.print(Text(_printable(sentence)))


def _fitting(comparison: Tabled, console: Console) -> tuple[Table, list[str]]:
    """The fullest table that the console can show, and what to say of what it lacks."""
    columns = comparison.leaderboard.columns
    table = _table(comparison, columns, spare_errors=False)
    if _width(table, console) <= console.width:
        return table, []
    cut = ["To fit the terminal, standard errors are shown for the score only; results.json has them all."]
    for shown in range(len(columns), 0, -1):
        table = _table(comparison, columns[:shown], spare_errors=True)
        if _width(table, console) <= console.width:
            break
    if hidden := [_heading(column) for column in columns[shown:]]:
        cut.append(f"To fit the terminal, these columns are left out: {', '.join(hidden)}.")
    return table, cut


def _width(table: Table, console: Console) -> int:
    # Measured without a limit: under the console's own width rich would answer that anything fits.
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _table(comparison: Tabled, columns: Sequence[Column], *, spare_errors: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("method", no_wrap=True, overflow="ellipsis", max_width=18)
    for column in columns:
        table.add_column(_heading(column), justify="right", no_wrap=True)
    floor = []
    for entry in comparison.entries:
        if isinstance(entry, Absence):
            table.add_row(Text(_printable(entry.label)), Text("failed"), style="red")
        elif entry.floor:
            floor.append(entry)
        else:
            table.add_row(*_texts(entry, columns, spare_errors))
    if floor:
        table.add_row(Text("─" * 5 + " floor", style="dim"))
        for row in floor:
            table.add_row(*_texts(row, columns, spare_errors), style="dim")
    return table


def _heading(column: Column) -> str:
    heading = column.heading or column.title
    # The cells leave the sign out: with it, seven columns do not fit.
    return _printable(f"{heading} %" if column.unit == "percent" else heading)


def _texts(row: Row, columns: Sequence[Column], spare_errors: bool) -> list[Text]:
    cells = [_cell(row.cells[column.key], column, spare_errors) for column in columns]
    return [Text(_printable(row.label)), *cells]


def _cell(cell: BoardCell, column: Column, spare_errors: bool) -> Text:
    number = estimate_text(cell.mean, cell.se, column.unit, lacks_error="se" in cell.why)
    text = number.number
    if number.se is not None and not (spare_errors and column.key != SCORE):
        text += f"±{number.se}"
    if number.suffix and column.unit != "percent":
        text += f" {number.suffix}"
    return Text(text) if cell.mark is None else Text(f"{MARKS[cell.mark]} {text}", style=_STYLES[cell.mark])


def _legend(comparison: Tabled) -> str:
    floor = "; floor: only the task head was trained" if any(row.floor for row in comparison.leaderboard.rows) else ""
    tied = tied_meaning(comparison.leaderboard.decision, len(comparison.seeds))
    return f"mean±standard error; ● best; ○ tied: {tied}{floor}"


def _printable(text: str) -> str:
    """Without control characters: a name may come from a user's file, and must not steer the terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
