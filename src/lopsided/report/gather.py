"""Folders become everything that the page is made of: leaderboards, runs, lab results and advice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lopsided
from lopsided.errors import LopsidedError
from lopsided.files.strict_json import loads
from lopsided.lab.experiments import exact_figures
from lopsided.lab.rejudge import judged
from lopsided.plotting.gaps import with_gaps
from lopsided.report.reported_run import ReportedRun, reported_run, whole_run
from lopsided.report.sources import find_sources
from lopsided.runs import Run
from lopsided.study.by_task import TaskBoard, leaderboards_by_task
from lopsided.study.comparison import origin_of
from lopsided.study.trials_of_runs import trials_of, with_rates

SCHEMA = 1
# What is read: results of the lab, and advice, whose second schema came with 0.2.
SCHEMAS = {"result.json": (1,), "advice.json": (1, 2)}


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What a report is made of.

    Args:
        boards: one per model and task.
        runs: one per run directory.
        lab, advice: what `lopsided lab` and `lopsided advise` wrote, with its folder.
        notes: what was left out, and why.
    """

    boards: tuple[TaskBoard, ...]
    runs: tuple[ReportedRun, ...]
    lab: tuple[dict[str, Any], ...] = ()
    advice: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """How many methods, and on what."""
        methods = {row.label for board in self.boards for row in board.leaderboard.rows}
        counted = f"{len(methods)} method{'' if len(methods) == 1 else 's'}"
        tasks, models = {board.task for board in self.boards}, {board.model for board in self.boards}
        parts = [f"{len(tasks)} tasks" if len(tasks) > 1 else self.boards[0].task]
        parts += [f"{len(models)} models"] if len(models) > 1 else []
        return f"{counted} on {' and '.join(parts)}"

    @property
    def not_finite(self) -> int:
        """How many numbers of the run directories are not finite; the means of them would count twice."""
        return sum(run.not_finite for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as data that `json.dumps` takes; numbers that are not finite are None."""
        plain: dict[str, Any] = with_gaps(
            {
                "schema": SCHEMA,
                "title": self.title,
                "versions": {"lopsided": lopsided.__version__},
                "groups": [board.to_json() for board in self.boards],
                "runs": [run.to_json() for run in self.runs],
                "lab": list(self.lab),
                "advice": list(self.advice),
                "notes": list(self.notes),
                "not_finite": self.not_finite,
            }
        )
        return plain


def gather(paths: Sequence[Path], *, bounds: bool = True) -> Gathered:
    """Read what the folders hold.

    Args:
        paths: run directories, results of `lopsided lab` and `lopsided advise`, or folders that contain them.
        bounds: whether to compute each run's generalization bound, which needs its model's configuration.

    Raises:
        LopsidedError: for bad input; see `find_sources`.
    """
    sources = find_sources(paths)
    runs, notes = _once([whole_run(folder) for folder in sources.runs])
    origins = {run.folder: origin for run in runs if (origin := origin_of(run.folder)) is not None}
    trials = trials_of(run.folder for run in runs)
    boards = [with_rates(board, trials) for board in leaderboards_by_task(runs, origins)]
    home = {run.folder: board for board in boards for run in board.runs}
    return Gathered(
        boards=tuple(boards),
        runs=tuple(reported_run(run, home[run.folder], origins.get(run.folder), bounds=bounds) for run in runs),
        lab=tuple(_result(folder, "result.json") for folder in sources.lab),
        advice=tuple(_result(folder, "advice.json") for folder in sources.advice),
        notes=tuple(notes),
    )


def _once(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Each run once: a copy under another name is the same run, and would count as another seed."""
    kept: dict[str, Run] = {}
    notes = []
    for run in runs:
        first = kept.setdefault(run.sha256, run)
        if first is not run:
            notes.append(f"{run.folder} holds the same run as {first.folder}, and is left out.")
    return list(kept.values()), notes


def _result(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        value = loads(path.read_text())
    except json.JSONDecodeError as error:
        raise LopsidedError(f"{path}:{error.lineno}: not JSON ({error.msg}); make it again") from error
    known = SCHEMAS[name]
    if not isinstance(value, dict) or value.get("schema") not in known:
        schemas = " or ".join(map(str, known))
        raise LopsidedError(f"{path} is of no schema that this version reads; expected {schemas}; make it again")
    # A result of `lopsided lab`, of a version that judged figures without their intervals among them.
    value = judged(value, exact_figures()) if "figures" in value else value
    return {"folder": str(folder), "name": folder.name, **value}
