"""A leaderboard as a notebook shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lopsided.formatting import MARKS, estimate_text, html_table
from lopsided.study.board_cells import BoardCell
from lopsided.study.board_rows import Absence, Row
from lopsided.study.columns import Column

if TYPE_CHECKING:
    from lopsided.study.leaderboard import Leaderboard

LEGEND = "mean ± standard error; ● best; ○ tied: the data cannot tell it from the best"


def board_html(
    board: Leaderboard, entries: Sequence[Row | Absence] = (), *, title: str = "", notes: Sequence[str] = ()
) -> str:
    """Return a leaderboard as a table, with its legend and its decision below.

    Args:
        entries: what it shows, in this order; empty takes the board's rows, and then what has none.
        notes: what else a reader must know of its rows.
    """
    shown = entries or (*board.rows, *board.absent)
    floor = ["floor: only the task head was trained"] if any(row.floor for row in board.rows) else []
    heads = ["method", *(column.heading or column.title for column in board.columns)]
    below = ["; ".join([LEGEND, *floor]), *notes, *board.sentences]
    return html_table(heads, [_line(entry, board.columns) for entry in shown], title=title, below=below)


def _line(entry: Row | Absence, columns: Sequence[Column]) -> list[str]:
    if isinstance(entry, Absence):
        # Without a figure, the reason takes the place of the first one.
        return [entry.label, *[f"failed: {entry.why}", *[""] * len(columns)][: max(1, len(columns))]]
    label = f"{entry.label} (floor)" if entry.floor else entry.label
    return [label, *(_cell(entry.cells[column.key], column) for column in columns)]


def _cell(cell: BoardCell, column: Column) -> str:
    text = str(estimate_text(cell.mean, cell.se, column.unit, lacks_error="se" in cell.why))
    return text if cell.mark is None else f"{MARKS[cell.mark]} {text}"
