"""A leaderboard as the page's template shows it: texts, in the page's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lopsided.formatting import estimate_text
from lopsided.plotting.figure import Figure
from lopsided.plotting.words import joined
from lopsided.report.footnotes import lacking_notes, same_as_notes
from lopsided.study.board_cells import BoardCell
from lopsided.study.board_rows import Absence, Row
from lopsided.study.by_task import TaskBoard
from lopsided.study.choice import tied_meaning
from lopsided.study.columns import SCORE, Column
from lopsided.study.tried_rates import rates_note

PLACES = {1: "first place", 2: "second place", 3: "third place"}


@dataclass(frozen=True, kw_only=True)
class ColumnView:
    """A column's heading: its title, the direction of its first sorting, and a hint at which end is better."""

    key: str
    title: str
    first: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class CellView:
    """A cell: its text, the numbers behind it, its place, and its difference to the best as a note.

    Args:
        why: the reason for a dash.
        tied: whether the data do not support the difference.
    """

    text: str
    why: str
    value: float | None
    half: float | None
    rank: int | None
    place: str | None
    tied: bool
    note: str


@dataclass(frozen=True, kw_only=True)
class RowView:
    """A row: its label, a line about it, and its cells in the order of the columns."""

    label: str
    floor: bool
    about: str
    cells: tuple[CellView, ...]


@dataclass(frozen=True, kw_only=True)
class BoardView:
    """A section of the page: a leaderboard, the notes below it, and its figures.

    Args:
        note: about the task's rows.
        sorted: the key of the column that the rows are sorted by.
        missing: what the section lacks, and how to get it.
    """

    key: str
    model: str
    task: str
    note: str
    sentences: tuple[str, ...]
    sorted: str
    caption: str
    tied_meaning: str
    columns: tuple[ColumnView, ...]
    rows: tuple[RowView, ...]
    notes: tuple[str, ...]
    absent: tuple[Absence, ...]
    figures: tuple[Figure, ...]
    missing: tuple[str, ...]


def sorted_rows(board: TaskBoard) -> list[Row]:
    """Return the rows as the page lists them at first: the best score first, those without one last."""
    column = _sorting_column(board)
    if column is None:
        return list(board.leaderboard.rows)

    def place(row: Row) -> tuple[bool, float]:
        """Return what rows are sorted by."""
        mean = row.cells[column.key].mean
        return mean is None, column.sign * (mean or 0.0)

    return sorted(board.leaderboard.rows, key=place)


def board_view(board: TaskBoard, figures: Sequence[Figure], missing: Sequence[str]) -> BoardView:
    """Return the texts of a leaderboard."""
    rows, columns, sorting = sorted_rows(board), board.leaderboard.columns, _sorting_column(board)
    seeds = {len(row.runs) for row in rows}
    return BoardView(
        key=board.key,
        model=board.model,
        task=board.task,
        note=_sentence(board.note),
        sentences=board.leaderboard.sentences,
        sorted="method" if sorting is None else sorting.key,
        caption=_caption(seeds),
        tied_meaning=tied_meaning(board.leaderboard.decision, 1 if seeds == {1} else max(seeds, default=1)),
        columns=tuple(_column(column) for column in columns),
        rows=tuple(_row(row, columns) for row in rows),
        notes=tuple(_notes(board, rows)),
        absent=board.leaderboard.absent,
        figures=tuple(figures),
        missing=tuple(missing),
    )


def _sorting_column(board: TaskBoard) -> Column | None:
    columns = board.leaderboard.columns
    return next((column for column in columns if column.key == SCORE), columns[0] if columns else None)


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def _caption(seeds: set[int]) -> str:
    if seeds == {1}:
        return "One seed, with the 95 % interval that its test rows leave"
    if len(seeds) == 1:
        return f"Mean and 95 % interval over {min(seeds)} seeds"
    return "Mean and 95 % interval over each method's seeds; with one seed, the interval that its test rows leave"


def _column(column: Column) -> ColumnView:
    high = column.better == "high"
    return ColumnView(
        key=column.key,
        title=column.title,
        first="descending" if high else "ascending",
        hint="↑ higher is better" if high else "↓ lower is better",
    )


def _row(row: Row, columns: Sequence[Column]) -> RowView:
    links = f", {row.links} links" if row.links > 1 else ""
    seeds = f"seed {row.seeds[0]}" if len(row.seeds) == 1 else f"{len(row.seeds)} seeds"
    return RowView(
        label=row.label,
        floor=row.floor,
        about=f"trains {row.trains}{links}; {seeds}",
        cells=tuple(_cell(row.cells[column.key], column.unit) for column in columns),
    )


def _cell(cell: BoardCell, unit: str) -> CellView:
    note = ""
    # Counts and sizes have no interval: their difference says nothing that the figures do not.
    if cell.half is not None and cell.difference:
        text = estimate_text(abs(cell.difference), None, unit).number
        note = f"{'−' if cell.difference < 0 else '+'}{text}" + (" points" if unit == "percent" else "")
    return CellView(
        text=str(estimate_text(cell.mean, cell.half, unit, lacks_error="se" in cell.why)),
        why="; ".join(dict.fromkeys(cell.why.values())),
        value=cell.mean,
        half=cell.half,
        rank=cell.rank,
        place=None if cell.rank is None else PLACES[cell.rank],
        tied=cell.mark == "tied" and cell.half is not None,
        note=note,
    )


def _notes(board: TaskBoard, rows: Sequence[Row]) -> list[str]:
    columns = board.leaderboard.columns
    notes = [column.note for column in columns if column.note]
    if floor := [row.label for row in rows if row.floor]:
        notes.append(f"{joined(floor)} is the floor: only the task head was trained, and it does not compete.")
    notes += [*lacking_notes(columns, rows), *same_as_notes(rows), *_note_on_rates(board, rows)]
    if board.shared:
        notes.append(f"All runs: {', '.join(f'{name} {value}'.strip() for name, value in board.shared)}.")
    return notes


def _note_on_rates(board: TaskBoard, rows: Sequence[Row]) -> list[str]:
    competing = [row.label for row in rows if not row.floor]
    tuned = [label for label in competing if label in board.rates]
    if len(competing) < 2:
        return []
    if tuned == competing:
        return [rates_note(max(len(board.rates[label]) for label in tuned))]
    if tuned:
        others = joined([label for label in competing if label not in tuned])
        return [f"Learning rates: tuned for {joined(tuned)}, and not for {others}, so that their order means little."]
    given = {run.settings.get("lr") for row in rows for run in row.runs}
    shared = given.pop() if len(given) == 1 else None
    return [rates_note(None, shared=shared, tune="`lopsided compare --tune 5`")]
