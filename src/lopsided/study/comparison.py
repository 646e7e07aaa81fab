"""A comparison that is over: its leaderboard, how it was made, and both as `results.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopsided.files.strict_json import WHY
from lopsided.runs import Run, read_run
from lopsided.study.board_cells import BoardCell
from lopsided.study.board_html import board_html
from lopsided.study.board_rows import Absence, Entry, Row
from lopsided.study.decision import MARGIN
from lopsided.study.leaderboard import Leaderboard, leaderboard
from lopsided.study.tried_rates import RateSearch, rates_note

SCHEMA = 1
RESULTS = "results.json"
RUNS = "runs"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The outcome of `lopsided compare`.

    Args:
        folder: what holds the run directories and `results.json`.
        names: of the methods, in the order in which they ran; each has a row in the leaderboard, or is absent.
        command: how it was asked for.
        model, task: as asked for.
        task_note: what a person should know about the task's rows.
        task_shape: how the rows were read; "" for those of embedded tasks.
        settings: what all runs share, without what is None.
        search: the trials of learning rates; None where these were not tuned.
        machine, versions: where it was made.
        created: when it began, in ISO format.
        wall_seconds: how long it took.
    """

    folder: Path
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    leaderboard: Leaderboard
    command: str
    model: str
    task: str
    task_note: str
    task_shape: str
    settings: Mapping[str, Any]
    search: RateSearch | None = None
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    created: str
    wall_seconds: float

    @property
    def title(self) -> str:
        """The title of its table."""
        return f"{len(self.names)} methods on {self.task}"

    @property
    def entries(self) -> list[Row | Absence]:
        """What became of each method, in their order: its row, or why it has none."""
        by_label: dict[str, Row | Absence] = {row.label: row for row in self.leaderboard.rows}
        by_label |= {absence.label: absence for absence in self.leaderboard.absent}
        return [by_label[name] for name in self.names]

    @property
    def notes(self) -> tuple[str, ...]:
        """What stands below its table: how its learning rates came about."""
        trials = None if self.search is None else self.search.tuning.trials
        return (rates_note(trials, shared=self.settings.get("lr")),)

    @property
    def failed(self) -> bool:
        """Whether a method failed."""
        return bool(self.leaderboard.absent)

    def __repr__(self) -> str:
        return f"Comparison({self.title} with {self.model}, in {str(self.folder)!r}: {self.leaderboard!r})"

    def _repr_html_(self) -> str:
        title = f"{self.title} with {self.model}"
        return board_html(self.leaderboard, self.entries, title=title, notes=self.notes)

    def to_json(self) -> dict[str, Any]:
        """Return what `results.json` holds."""
        board = self.leaderboard
        return {
            "schema": SCHEMA,
            "title": self.title,
            "command": self.command,
            "model": self.model,
            "task": self.task,
            "task_note": self.task_note,
            "task_shape": self.task_shape,
            "seeds": list(self.seeds),
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "columns": [column.to_json() for column in board.columns],
            "rows": [self._entry_json(entry) for entry in self.entries],
            "sentences": list(board.sentences),
            "decision": board.decision_json(),
            "tuning": None if self.search is None else self.search.to_json(),
            "created": self.created,
            "wall_seconds": self.wall_seconds,
        }

    def _entry_json(self, entry: Row | Absence) -> dict[str, Any]:
        if isinstance(entry, Absence):
            return {**_status(entry.label, error=entry.why), "cells": {}, "runs": []}
        return {
            **_status(entry.label, floor=entry.floor, same_as=entry.same_as),
            "source": entry.method.source,
            "trains": entry.trains,
            "links": entry.links,
            "learning_rate": entry.learning_rate,
            "cells": {column.key: _cell_json(entry.cells[column.key]) for column in self.leaderboard.columns},
            "runs": [str(run.folder.relative_to(self.folder)) for run in entry.runs],
        }


def _status(label: str, *, floor: bool = False, error: str | None = None, same_as: str | None = None) -> dict[str, Any]:
    status = "ok" if error is None else "failed"
    return {"method": label, "status": status, "floor": floor, "error": error, "same_as": same_as}


def board_of_comparison(
    folders: Mapping[str, Sequence[Path]], errors: Mapping[str, str], *, margin: float = MARGIN
) -> Leaderboard:
    """Compute the leaderboard of a comparison: a method has a row if all of its seeds finished.

    Args:
        folders: each method's run directories, by seed.
        errors: why a method has no runs, or not all of them. What its folders hold then may be of other settings.
        margin: of the decision, in points.
    """
    entries, absent = [], []
    for name, paths in folders.items():
        runs = () if name in errors else _finished(paths)
        if runs:
            entries.append(Entry(label=name, runs=runs))
        else:
            absent.append(Absence(label=name, why=errors.get(name, "did not finish")))
    return leaderboard(entries, absent, margin=margin)


def _finished(folders: Sequence[Path]) -> tuple[Run, ...]:
    """The runs in these folders; none if one of them did not finish."""
    runs = tuple(run for folder in folders if (run := read_run(folder)) is not None and run.is_finished)
    return runs if len(runs) == len(folders) else ()


def _cell_json(cell: BoardCell) -> dict[str, Any]:
    figures = {"mean": cell.mean, "se": cell.se, "mark": cell.mark}
    return {**figures, WHY: dict(cell.why)} if cell.why else figures


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a run directory's comparison says of it.

    Args:
        command: what made all of its runs.
        names: of its methods, in their order.
        margin: of its decision, in points.
    """

    command: str
    names: tuple[str, ...] = ()
    margin: float = MARGIN


def results_path(folder: Path) -> Path:
    """Return where the comparison of a run directory would have its results."""
    return folder.resolve().parent.parent / RESULTS


def origin_of(folder: Path) -> Origin | None:
    """Return the comparison that a run directory belongs to; None if it is not in one, or it is not over."""
    path = results_path(folder)
    if folder.resolve().parent.name != RUNS or not path.is_file():
        return None
    try:
        results = json.loads(path.read_text())
    except json.JSONDecodeError:
        # Another program's results.json.
        return None
    if not isinstance(results, dict) or not isinstance(results.get("command"), str):
        return None
    rows = results.get("rows")
    names = [row.get("method") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return Origin(
        command=results["command"],
        names=tuple(name for name in names if isinstance(name, str)),
        margin=_margin(results.get("decision")),
    )


def _margin(decision: Any) -> float:
    """The margin that a file has; those of version 0.1.0 have none."""
    margin = decision.get("margin") if isinstance(decision, dict) else None
    return float(margin) if isinstance(margin, int | float) and margin > 0 else MARGIN
