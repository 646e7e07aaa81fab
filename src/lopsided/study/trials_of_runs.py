"""The trials that the learning rates of runs were chosen by: found next to the runs, in the results of their study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lopsided.runs import Run
from lopsided.study.by_task import TaskBoard
from lopsided.study.comparison import RUNS
from lopsided.study.results import Result, read_results
from lopsided.study.tried_rates import TriedRate, tried_rate

# In these a trial differs from the runs that its rate is for.
_OF_TRIALS = ("seed", "report_to", "out", "model", "task", "method", "lr", "test", "trajectory")
_LENGTH = ("steps", "epochs")


def trials_of(folders: Iterable[Path]) -> list[Result]:
    """Return the trials of the studies that some run directories belong to, each once.

    Raises:
        LopsidedError: for a line of their results that is none of ours.
    """
    studies = dict.fromkeys(
        folder.resolve().parent.parent for folder in folders if folder.resolve().parent.name == RUNS
    )
    trials: dict[str, Result] = {}
    for study in studies:
        results = read_results(sorted(study.glob("results*.jsonl")))
        trials |= {key: result for key, result in results.items() if result.data["role"] == "trial"}
    return list(trials.values())


def with_rates(board: TaskBoard, trials: Sequence[Result]) -> TaskBoard:
    """Return a leaderboard with what the rates of its rows were chosen from, by the rows' labels."""
    rates: dict[str, list[TriedRate]] = {}
    for trial in trials:
        data = trial.data
        if (data["model"], data["task"]) == (board.model, board.task):
            label = _label(board, trial)
            if label is not None:
                rates.setdefault(label, []).append(tried_rate(trial))
    ordered = {label: tuple(sorted(tried, key=lambda each: each.rate)) for label, tried in rates.items()}
    return replace(board, rates=ordered)


def _label(board: TaskBoard, trial: Result) -> str | None:
    """Return the row whose runs have a trial's settings; trials may be shorter than the runs that they are for."""
    for ignored in (_OF_TRIALS, (*_OF_TRIALS, *_LENGTH)):
        settings = _settings(trial.data["settings"], ignored)
        for run in board.runs:
            if _method_of(run) == trial.data["method"] and _settings(run.settings, ignored) == settings:
                return board.labels[run.folder]
    return None


def _method_of(run: Run) -> str:
    return str(run.settings["method"])


def _settings(settings: Mapping[str, Any], ignored: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in ignored and value is not None}
