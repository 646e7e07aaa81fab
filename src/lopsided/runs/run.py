"""A run directory as one frozen, typed view: the only way to read one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.files.atomic import file_hash
from lopsided.files.strict_json import NULLS, WHY, loads
from lopsided.method import Method, method_from_parts
from lopsided.runs.config import TrainConfig
from lopsided.runs.directory import folders_with, is_held
from lopsided.runs.saved_diagnosis import SavedDiagnosis, read_diagnosis

SCHEMA = 1
RECORD = "run.json"
ID_DIGITS = 12
Status = Literal["running", "cut off", "failed", "finished"]
# One split's arrays by column, one entry per row.
Predictions = Mapping[str, np.ndarray]

_KILLED = "its process ended without a word, as by kill -9 or a power cut"
_STATES = {"running": "a run that is not over", "cut off": "a run that is cut off", "failed": "a run that failed"}
# What every record has, and what that of a finished run has besides.
_BEGUN = ("config", "method", "versions", "machine")
_FINISHED = (
    *("model", "task", "learning_rate", "trained_parameters", "metrics", "generalization_error", "history"),
    *("timings", "kept_bytes", "adapter_bytes", "chain", "steps"),
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its standard error; each is None where it could not be computed, and `why` says the reason.

    Args:
        why: the reason by "value" or "se"; empty in records of version 0.1.0, which gave none.
    """

    value: float | None
    se: float | None
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SplitFigures:
    """What a run came to on one split: its score and its mean loss, in nats or in squared units."""

    score: Estimate
    loss: Estimate
    rows: int


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The model that a run began with."""

    name: str
    type: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What a run learned: the task without its rows.

    Args:
        metric: name, and whether greater is better.
        rows: how many, by split.
        columns: which of a user's columns became which of the task's; None where none were read, or in version 0.1.0.
        shape: the same in words.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    metric: str
    greater_is_better: bool
    rows: Mapping[str, int]
    out_of_domain: tuple[str, ...]
    note: str
    shape: str
    columns: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class ChainFacts:
    """The links of a run: how many, the steps after which a new one began, and when that happened."""

    links: int
    boundaries: tuple[int, ...]
    events: tuple[Mapping[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory, read once.

    `status` says how far the run came. What only a finished run has raises for any other: ask `is_finished`, or
    read with `finished_run`.

    Args:
        folder: where it lies.
        status: "cut off" is a run whose process ended without writing another word.
        error: why it failed, in one line; None otherwise.
        settings: its configuration as plain data, as the run wrote it.
        versions, machine: where it was made.
        record: the whole of `run.json`; for `runs/` alone.
    """

    folder: Path
    status: Status
    error: str | None
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    record: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def is_finished(self) -> bool:
        return self.status == "finished"

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def command(self) -> str | None:
        """The command line that made it; None for a run that was made from Python, or by version 0.1.0."""
        return self.record.get("command")

    @cached_property
    def method(self) -> Method:
        """What was trained, whether or not a method of that name is registered here.

        Raises:
            LopsidedError: if its parts contradict each other, or are of a later version.
        """
        return method_from_parts(self.record["method"])

    @cached_property
    def id(self) -> str:
        """What a run is known by: the first digits of its record's SHA-256, which another state of the run changes."""
        return self.sha256[:ID_DIGITS]

    @cached_property
    def sha256(self) -> str:
        return file_hash(self.folder / RECORD)

    @cached_property
    def config(self) -> TrainConfig:
        """The configuration, checked.

        Raises:
            LopsidedError: if its method is not registered here; `settings` and `method` are there in any case.
        """
        return TrainConfig(**self.settings, out=self.folder)

    @property
    def nulls(self) -> Mapping[str, str]:
        """Where the record has null for a number that is not finite, and what that was."""
        return dict(self.record.get(NULLS, {}))

    @property
    def wall_seconds(self) -> float | None:
        return self.record.get("wall_seconds")

    @property
    def diagnosis(self) -> dict[str, Any] | None:
        """What `lopsided diagnose` found, as plain data; None where there is nothing of this state of the run.

        Raises:
            LopsidedError: if the file is not JSON.
        """
        return self._diagnosis.content

    @property
    def diagnosis_note(self) -> str | None:
        """Why there is a diagnosis that is not shown; None where it is shown, or was never made."""
        return self._diagnosis.note

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data, to be printed; everything that is read from it has a property here."""
        return dict(self.record)

    # Of finished runs.

    @property
    def model(self) -> BaseModel:
        return BaseModel(**self._of_finished("model"))

    @cached_property
    def task(self) -> TaskFacts:
        task = self._of_finished("task")
        metric = task["metric"]
        return TaskFacts(
            name=task["name"],
            kind=task["kind"],
            labels=tuple(task["labels"]),
            metric=metric["name"],
            greater_is_better=metric["greater_is_better"],
            rows=task["rows"],
            out_of_domain=tuple(task["out_of_domain"]),
            note=task["note"],
            shape=task.get("shape", ""),
            columns=task.get("columns"),
        )

    @cached_property
    def metrics(self) -> Mapping[str, SplitFigures]:
        """Score and loss of each evaluated split."""
        return {name: _split_figures(figures) for name, figures in self._of_finished("metrics").items()}

    @property
    def generalization_error(self) -> Estimate | None:
        """G(W) = |test loss − training loss|; None for a run that was made without test figures."""
        gap = self._of_finished("generalization_error")
        return None if gap is None else _estimate(gap, "value")

    @property
    def step_ms(self) -> Estimate:
        """The median time of a step, in milliseconds."""
        return _estimate(self._of_finished("timings"), "median_ms", "se_ms")

    @property
    def learning_rate(self) -> float:
        return float(self._of_finished("learning_rate"))

    @property
    def trained_parameters(self) -> int:
        return int(self._of_finished("trained_parameters"))

    @property
    def kept_bytes(self) -> int:
        """Bytes that autograd keeps for the backward pass of one step."""
        return int(self._of_finished("kept_bytes"))

    @property
    def adapter_bytes(self) -> int:
        return int(self._of_finished("adapter_bytes"))

    @property
    def steps(self) -> int:
        return int(self._of_finished("steps"))

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint that was kept; None in records of version 0.1.0."""
        self._of_finished("steps")
        return self.record.get("best_step")

    @property
    def chain(self) -> ChainFacts | None:
        chain = self._of_finished("chain")
        if chain is None:
            return None
        return ChainFacts(
            links=chain["links"], boundaries=tuple(chain["boundaries"]), events=tuple(chain.get("events", ()))
        )

    @property
    def links(self) -> int:
        return 1 if self.chain is None else self.chain.links

    @property
    def history(self) -> tuple[Mapping[str, float], ...]:
        """The entries of the Trainer's log."""
        return tuple(self._of_finished("history"))

    def losses(self, split: Literal["train", "validation"]) -> tuple[tuple[int, float], ...]:
        """(step, loss) at each entry of the log."""
        key = {"train": "loss", "validation": "eval_loss"}[split]
        return tuple((int(entry["step"]), entry[key]) for entry in self.history if key in entry)

    @cached_property
    def predictions(self) -> Mapping[str, Predictions]:
        """Every row of the evaluated splits, by split and column."""
        self._of_finished("steps")
        rows: dict[str, dict[str, np.ndarray]] = {}
        with np.load(self.folder / "predictions.npz") as arrays:
            for key in arrays.files:
                split, name = key.split("|")
                rows.setdefault(split, {})[name] = arrays[key]
        return rows

    @cached_property
    def _diagnosis(self) -> SavedDiagnosis:
        return read_diagnosis(self.folder, self.id)

    def _of_finished(self, key: str) -> Any:
        if not self.is_finished:
            raise LopsidedError(f"{self.folder} holds {_STATES[self.status]}; expected a finished run; finish it first")
        return self.record[key]


def read_run(folder: Path) -> Run | None:
    """The run in a folder, or None if there is none yet.

    A record says "running" until its process writes another word. Where that process is gone, the status is "cut off".

    Raises:
        LopsidedError: if `run.json` is not a record of ours, or not a whole one.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = loads(path.read_text())
    except json.JSONDecodeError as error:
        raise LopsidedError(f"{path}:{error.lineno}: not JSON ({error.msg}); delete the folder") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise LopsidedError(f"{path} is not a run of schema {SCHEMA}; choose another folder")
    status, error_line = record.get("status"), record.get("error")
    if status == "running" and not is_held(folder):
        status, error_line = "cut off", _KILLED
    if status != "finished" and status not in _STATES:
        raise LopsidedError(f"{path}: expected a status of a run, received {status!r}; train it again")
    needed = (*_BEGUN, *(_FINISHED if status == "finished" else ()))
    if missing := [key for key in needed if key not in record]:
        raise LopsidedError(
            f"{path} is not a whole run: expected {', '.join(needed)}, received none of {', '.join(missing)}; train it "
            "again"
        )
    return Run(
        folder=folder,
        status=status,
        error=error_line,
        settings=record["config"],
        versions=record["versions"],
        machine=record["machine"],
        record=record,
    )


def finished_run(folder: Path) -> Run:
    """The finished run in a folder.

    Raises:
        LopsidedError: if there is none.
    """
    run = read_run(folder)
    if run is None or not run.is_finished:
        state = "no run" if run is None else _STATES[run.status]
        raise LopsidedError(f"{folder} holds {state}; expected a finished run; make one with `lopsided train`")
    return run


def run_folders(path: Path) -> list[Path]:
    """The run directory at a path, or those below it: a comparison keeps its own in `runs`.

    Raises:
        LopsidedError: if there is none.
    """
    folders = list(folders_with([RECORD], path))
    if not folders:
        raise LopsidedError(
            f"expected a run directory or a folder of them, got {path} without a {RECORD}; make one with "
            "`lopsided train` or `lopsided compare`"
        )
    return folders


def _estimate(section: Mapping[str, Any], value: str, se: str = "se") -> Estimate:
    why = section.get(WHY, {})
    named = {ours: why[theirs] for ours, theirs in (("value", value), ("se", se)) if theirs in why}
    return Estimate(value=section[value], se=section.get(se), why=named)


def _split_figures(figures: Mapping[str, Any]) -> SplitFigures:
    return SplitFigures(
        score=_estimate(figures, "score"), loss=_estimate(figures, "loss", "loss_se"), rows=figures["rows"]
    )
