"""The leaderboard of methods: one computation of rows, marks, ties, ranks and sentences from runs.

results.json, the terminal and the page show what stands here.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lopsided.runs import Run
from lopsided.study.board_cells import NOT_OF_THIS_RUN, BoardCell, cell_of, ranked
from lopsided.study.board_html import board_html
from lopsided.study.board_rows import Absence, Entry, Row
from lopsided.study.choice import sentences
from lopsided.study.columns import SCORE, Column, columns_of
from lopsided.study.decision import MARGIN, Decision, decide

# Settings that leave a run the same but for chance, and those that a method's parts and learning rate stand for.
INDIFFERENT = ("seed", "report_to", "out")
IN_PARTS = ("method", "lr")


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """A table of methods on one model and task.

    Args:
        columns: those that concern at least one row.
        decision: which method to take, and how much worse than the best it may be; None where nothing was decided.
        sentences: the decision in words.
    """

    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    absent: tuple[Absence, ...] = ()
    decision: Decision | None = None
    sentences: tuple[str, ...] = ()

    def __repr__(self) -> str:
        labels = [row.label for row in self.rows] + [f"{each.label} (absent)" for each in self.absent]
        return f"Leaderboard({'; '.join(filter(None, [', '.join(labels), *self.sentences[:1]]))})"

    def _repr_html_(self) -> str:
        return board_html(self)

    def decision_json(self) -> dict[str, Any] | None:
        """Return the decision as results.json and the page's figures have it."""
        return None if self.decision is None else {**self.decision.to_json(), "sentences": list(self.sentences)}


def leaderboard(entries: Sequence[Entry], absent: Sequence[Absence] = (), *, margin: float = MARGIN) -> Leaderboard:
    """Compute the table of some methods; their runs were made on one task.

    Args:
        entries: in order of precedence. Of equal means the first is the best, of equal methods the first is taken.
        absent: what else there is.
        margin: of the decision, in points.
    """
    columns, by_column = _columns_and_cells(entries)
    equal = _equal_parts(entries)
    rows = tuple(
        Row(
            label=entry.label,
            runs=entry.runs,
            cells={key: cells[entry.label] for key, cells in by_column.items()},
            same_as=equal.get(entry.label),
        )
        for entry in entries
    )
    decision = decide(rows, margin)
    return Leaderboard(
        columns=columns,
        rows=tuple(_marked(row, decision) for row in rows),
        absent=tuple(absent),
        decision=decision,
        sentences=sentences(columns, rows, decision),
    )


def _marked(row: Row, decision: Decision) -> Row:
    """The row with the mark of its score by the decision, where that has bounds."""
    cell = row.cells.get(SCORE)
    if cell is None or row.floor or not decision.possible or cell.mark == "best":
        return row
    tied = row.label in decision.possible or row.label in decision.within
    return replace(row, cells={**row.cells, SCORE: replace(cell, mark="tied" if tied else None)})


def listed(board: Leaderboard, labels: Sequence[str]) -> Leaderboard:
    """Return the table with its rows in the order of `labels`."""
    return replace(board, rows=tuple(sorted(board.rows, key=lambda row: labels.index(row.label))))


def _columns_and_cells(entries: Sequence[Entry]) -> tuple[tuple[Column, ...], dict[str, dict[str, BoardCell]]]:
    """The columns that concern a method, and the cells of all columns by key and label."""
    if not entries:
        return (), {}
    task = entries[0].runs[0].task
    runs = {entry.label: entry.runs for entry in entries}
    competing = [entry.label for entry in entries if not entry.runs[0].method.side.head_alone]
    columns, by_column = [], {}
    for column in columns_of(task.metric, task.greater_is_better):
        of_runs = {label: cell_of(column, members) for label, members in runs.items()}
        concerns = any(cell is not None for cell in of_runs.values())
        without = BoardCell(why={"mean": NOT_OF_THIS_RUN}) if concerns else BoardCell()
        cells = {label: cell or without for label, cell in of_runs.items()}
        by_column[column.key] = cells | ranked(column, {label: cells[label] for label in competing}, runs)
        if concerns:
            columns.append(column)
    return tuple(columns), by_column


def _equal_parts(entries: Sequence[Entry]) -> dict[str, str]:
    """By label, the earlier entry with the same parts, settings and learning rate."""
    first: dict[Hashable, str] = {}
    equal = {}
    for entry in entries:
        run, method = entry.runs[0], entry.runs[0].method
        parts = (method.side, method.sketch, method.chain, run.learning_rate)
        key = (parts, _settings_text(run))
        if first.setdefault(key, entry.label) != entry.label:
            equal[entry.label] = first[key]
    return equal


def _settings_text(run: Run) -> str:
    """The settings besides the method's, as one text; those that are None are not in records of earlier versions."""
    without = (*INDIFFERENT, *IN_PARTS)
    settings = {key: value for key, value in run.settings.items() if key not in without and value is not None}
    return json.dumps(settings, sort_keys=True, allow_nan=False)
