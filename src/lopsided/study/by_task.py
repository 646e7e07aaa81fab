"""Leaderboards of any runs, one per model and task.

An entry is one method with one set of settings; its runs differ in the seed alone. Runs on another model, another task
or other test rows are in another leaderboard, and never averaged with these.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lopsided.files.strict_json import WHY
from lopsided.runs import Run
from lopsided.study.board_cells import BoardCell
from lopsided.study.board_rows import Absence, Entry, Row
from lopsided.study.columns import SCORE
from lopsided.study.comparison import Origin
from lopsided.study.decision import MARGIN
from lopsided.study.leaderboard import INDIFFERENT, Leaderboard, leaderboard, listed
from lopsided.study.tried_rates import TriedRate

# Runs may still be on their way, unlike those of a comparison that is over.
NOTHING_YET = "No method finished with a score, so there is nothing to choose from yet."
# Settings that every leaderboard shows elsewhere, or that follow from the method.
SHOWN_ELSEWHERE = (*INDIFFERENT, "method", "model", "task", "links", "test")


@dataclass(frozen=True, kw_only=True)
class TaskBoard:
    """The leaderboard of one model and task, and the runs that it was made of.

    Args:
        key: unique among the boards.
        note: what a person should know about the task's rows; None if no run finished.
        runs: all of them, in the order given.
        labels: of each run, by its folder: the method, and the settings in which runs of that method differ.
        shared: name and text of the settings that all runs have in common, without switches that are off.
        rates: what the runs' learning rates were chosen from, by label, from the lowest; empty where none were tuned.
    """

    key: str
    model: str
    task: str
    note: str | None
    leaderboard: Leaderboard
    runs: tuple[Run, ...]
    labels: Mapping[Path, str]
    shared: tuple[tuple[str, str], ...]
    rates: Mapping[str, tuple[TriedRate, ...]] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """The seeds of all runs, each once."""
        return sorted({run.seed for run in self.runs})

    def to_json(self) -> dict[str, Any]:
        """Return the board as the page's figures and `lopsided report --json` have it."""
        board = self.leaderboard
        return {
            "key": self.key,
            "model": self.model,
            "task": self.task,
            "note": self.note,
            "columns": [column.to_json() for column in board.columns],
            "rows": [_row_json(row) for row in board.rows],
            "absent": [_absence_json(absence) for absence in board.absent],
            "sentences": list(board.sentences),
            "decision": board.decision_json(),
            "seeds": self.seeds,
            "shared": [list(setting) for setting in self.shared],
            "rates": {label: [asdict(trial) for trial in trials] for label, trials in self.rates.items()},
        }


def leaderboards_by_task(runs: Sequence[Run], origins: Mapping[Path, Origin] | None = None) -> list[TaskBoard]:
    """Compute one leaderboard per model and task, in the order of the runs.

    Args:
        origins: the comparisons that runs belong to, by the run's folder. Of equal means the first is the best in the
            order of the comparison, so that its own table says the same; of other runs in the order given.
    """
    return [_board(f"g{number}", members, origins or {}) for number, members in enumerate(_by_task(runs))]


def status_in_words(run: Run) -> str:
    """Return how far a run came."""
    return "unfinished" if run.status == "running" else run.status


def _by_task(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each board, in the order of their first ones."""
    groups: dict[tuple[Hashable, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault((*_asked(run), _rows_of(run)), []).append(run)
    for model, task, rows in list(groups):
        if rows is None:
            # Runs without figures go to the first board of their model and task, if there is one.
            home = next((key for key in groups if key[:2] == (model, task) and key[2] is not None), None)
            if home is not None:
                groups[home] += groups.pop((model, task, None))
    return list(groups.values())


def _rows_of(run: Run) -> Hashable:
    """What tells tasks of one name apart, such as a folder that changed; None for a run without figures."""
    if not run.is_finished:
        return None
    task, most = run.task, run.settings.get("test_rows")
    tested = None if most is None or (most >= task.rows["test"] and not task.out_of_domain) else most
    return task.metric, task.greater_is_better, tuple(sorted(task.rows.items())), task.out_of_domain, tested


def _asked(run: Run) -> tuple[str, str]:
    return run.settings["model"], run.settings["task"]


def _board(key: str, runs: Sequence[Run], origins: Mapping[Path, Origin]) -> TaskBoard:
    labels = _labels(runs)
    entries, absent = _entries(runs, labels)
    precedence = dict.fromkeys(name for run in runs if run.folder in origins for name in origins[run.folder].names)
    places = {name: place for place, name in enumerate(precedence)}
    by_precedence = sorted(entries, key=lambda entry: places.get(entry.runs[0].method.name, len(places)))
    margins = {origins[run.folder].margin if run.folder in origins else MARGIN for run in runs}
    # A margin that not all of these runs were compared with is none of theirs.
    board = leaderboard(by_precedence, absent, margin=margins.pop() if len(margins) == 1 else MARGIN)
    if not any(row.cells[SCORE].mark == "best" for row in board.rows):
        board = replace(board, sentences=(NOTHING_YET,))
    first = next((run for run in runs if run.is_finished), runs[0])
    model, task = _asked(first)
    return TaskBoard(
        key=key,
        model=model,
        task=task,
        note=first.task.note if first.is_finished else None,
        # Shown in the order of the runs; precedence is for ties alone.
        leaderboard=listed(board, [entry.label for entry in entries]),
        runs=tuple(runs),
        labels=labels,
        shared=_shared(runs),
    )


def _labels(runs: Sequence[Run]) -> dict[Path, str]:
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.method.name, []).append(run)
    labels = {}
    for name, members in by_method.items():
        varied = [key for key in members[0].settings if key not in INDIFFERENT and _differs(key, members)]
        for run in members:
            settings = [f"{key.replace('_', ' ')} {run.settings.get(key)}" for key in varied]
            labels[run.folder] = ", ".join([name, *settings])
    return labels


def _differs(key: str, runs: Sequence[Run]) -> bool:
    return len({json.dumps(run.settings.get(key), allow_nan=False) for run in runs}) > 1


def _entries(runs: Sequence[Run], labels: Mapping[Path, str]) -> tuple[list[Entry], list[Absence]]:
    """The runs with figures by label, and the others with the reason."""
    by_label: dict[str, list[Run]] = {}
    absent = []
    for run in sorted(runs, key=lambda run: run.seed):
        label = labels[run.folder]
        if reason := _why_absent(run, by_label.get(label, ())):
            absent.append(Absence(label=label, why=reason, run=run))
        else:
            by_label.setdefault(label, []).append(run)
    return [Entry(label=label, runs=tuple(members)) for label, members in by_label.items()], absent


def _why_absent(run: Run, before: Sequence[Run]) -> str | None:
    if not run.is_finished:
        status = status_in_words(run)
        return f"{status}: {run.error}" if run.error else status
    if "test" not in run.metrics:
        return "made without test figures"
    if run.seed in [other.seed for other in before]:
        return f"another run with seed {run.seed} and the same settings is in the table"
    return None


def _shared(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    names = [key for key in runs[0].settings if key not in SHOWN_ELSEWHERE and not _differs(key, runs)]
    values = {key: runs[0].settings[key] for key in names}
    return tuple(
        (key.replace("_", " "), "" if value is True else str(value))
        for key, value in values.items()
        if value is not None and value is not False
    )


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "label": row.label,
        "method": row.method.name,
        "trains": row.trains,
        "floor": row.floor,
        "links": row.links,
        "source": row.method.source,
        "learning_rate": row.learning_rate,
        "seeds": list(row.seeds),
        "same_as": row.same_as,
        "status": "ok",
        "cells": {key: _cell_json(cell) for key, cell in row.cells.items()},
    }


def _cell_json(cell: BoardCell) -> dict[str, Any]:
    figures = {"mean": cell.mean, "half": cell.half, "rank": cell.rank, "mark": cell.mark}
    return {**figures, "difference": cell.difference, **({WHY: dict(cell.why)} if cell.why else {})}


def _absence_json(absence: Absence) -> dict[str, Any]:
    run = absence.run
    named = {} if run is None else {"run": run.name, "label": absence.label, "seed": run.seed}
    return {**named, "why": absence.why}
