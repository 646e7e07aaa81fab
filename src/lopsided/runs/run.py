"""A run directory as one frozen, typed view: the only way to read one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from lopsided.errors import LopsidedError
from lopsided.files.atomic import file_hash
from lopsided.files.strict_json import NULLS, loads, reasons
from lopsided.method import Method, method_from_parts
from lopsided.runs.config import TrainConfig
from lopsided.runs.directory import RECORD, SCHEMA, folders_with, is_held, read_predictions
from lopsided.runs.facts import (
    BaseModel,
    CalibrationFacts,
    ChainFacts,
    Estimate,
    Predictions,
    SplitFigures,
    StepTime,
    TaskFacts,
)
from lopsided.runs.saved_diagnosis import SavedDiagnosis, read_diagnosis
from lopsided.tuner.method_parts import check_parts

ID_DIGITS = 12
Status = Literal["running", "cut off", "failed", "finished"]

_KILLED = "its process ended without writing why, as after kill -9 or a power cut"
_STATES = {"running": "a run that is not over", "cut off": "a run that is cut off", "failed": "a run that failed"}
# The sections that every record has, and those of a finished run besides.
BEGUN = ("config", "method", "versions", "machine")
FINISHED = (
    *("model", "task", "learning_rate", "trained_parameters", "metrics", "generalization_error", "history"),
    *("timings", "kept_bytes", "adapter_bytes", "chain", "steps"),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory, read once.

    `status` says how far the run came. What only a finished run has raises for any other: ask `is_finished`, or
    read with `finished_run`.

    Args:
        folder: where it lies.
        status: "cut off" is a run whose process ended without recording another status.
        error: why it failed, in one line; None otherwise.
        settings: its configuration as plain data, as the run wrote it.
        versions, machine: where it was made.
        record: the whole of `run.json`; for `runs/` alone.
        rows: the predictions, where they are not in the folder: of a run that was made elsewhere.
    """

    folder: Path
    status: Status
    error: str | None
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    record: Mapping[str, Any] = field(repr=False)
    rows: Mapping[str, Predictions] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {self.settings.get('method')} on {self.settings.get('task')}, {self.status})"

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.resolve().name

    @property
    def is_finished(self) -> bool:
        """Whether it came to its end, and has all that a finished run has."""
        return self.status == "finished"

    @property
    def seed(self) -> int:
        """The seed of the head, the order of rows, dropout and the sketches."""
        return int(self.settings["seed"])

    @property
    def command(self) -> str | None:
        """The command line that made it; None for a run that was made from Python, or by version 0.1.0."""
        return self.record.get("command")

    @cached_property
    def method(self) -> Method:
        """What was trained, whether or not a method of that name is registered here.

        Raises:
            LopsidedError: if its parts contradict each other, are of a later version, or are not plain data.
        """
        parts = dict(self.record["method"])
        # A run directory may come from anywhere: its parts are checked before anything is made of them.
        check_parts(parts)
        return method_from_parts(parts)

    @cached_property
    def id(self) -> str:
        """What a run is known by: the first digits of its record's SHA-256, which another state of the run changes."""
        return self.sha256[:ID_DIGITS]

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of its record's bytes."""
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
        """How long the session took that finished it; None for a run that did not finish."""
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

    def section(self, name: str) -> Any:
        """Return a section of the record as plain data, to be passed on as JSON."""
        return self._of_finished(name) if name in FINISHED else self.record[name]

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data, to be printed; everything that is read from it has a property here."""
        return dict(self.record)

    # Of finished runs.

    @property
    def model(self) -> BaseModel:
        """The model that it began with."""
        return BaseModel(**self._of_finished("model"))

    @cached_property
    def task(self) -> TaskFacts:
        """What it learned."""
        return TaskFacts.from_json(self._of_finished("task"))

    @cached_property
    def metrics(self) -> Mapping[str, SplitFigures]:
        """Score and loss of each evaluated split."""
        return {split: SplitFigures.from_json(figures) for split, figures in self._of_finished("metrics").items()}

    @property
    def generalization_error(self) -> Estimate | None:
        """G(W) = |test loss − training loss|; None for a run that was made without test figures."""
        gap = self._of_finished("generalization_error")
        return None if gap is None else Estimate.from_json(gap, "value")

    @property
    def step_ms(self) -> Estimate:
        """The median time of a step, in milliseconds."""
        return StepTime.from_json(self._of_finished("timings")).milliseconds

    @property
    def timed_steps(self) -> int:
        """How many steps `step_ms` is the median of."""
        return StepTime.from_json(self._of_finished("timings")).steps

    @property
    def learning_rate(self) -> float:
        """The learning rate at its highest."""
        return float(self._of_finished("learning_rate"))

    @property
    def trained_parameters(self) -> int:
        """How many numbers were trained, the head included."""
        return int(self._of_finished("trained_parameters"))

    @property
    def kept_bytes(self) -> int:
        """Bytes that autograd keeps for the backward pass of one step."""
        return int(self._of_finished("kept_bytes"))

    @property
    def adapter_bytes(self) -> int:
        """Bytes of the weights that were saved."""
        return int(self._of_finished("adapter_bytes"))

    @property
    def steps(self) -> int:
        """How many optimizer steps it has."""
        return int(self._of_finished("steps"))

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint that was kept; None in records of version 0.1.0."""
        self._of_finished("steps")
        return self.record.get("best_step")

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether its checkpoints were left when it had finished, as those of version 0.1.0 were."""
        self._of_finished("steps")
        return bool(self.record.get("keeps_checkpoints", True))

    @property
    def chain(self) -> ChainFacts | None:
        """The links of its chain; None for a method without one."""
        chain = self._of_finished("chain")
        return None if chain is None else ChainFacts.from_json(chain)

    @property
    def calibration(self) -> CalibrationFacts | None:
        """How its sketches were drawn from training rows; None for a method that reads none."""
        section = self.record.get("calibration")
        return None if section is None else CalibrationFacts.from_json(section)

    @property
    def links(self) -> int:
        """How many links its chain has; 1 without a chain."""
        return 1 if self.chain is None else self.chain.links

    @property
    def history(self) -> tuple[Mapping[str, float], ...]:
        """The entries of the Trainer's log."""
        return tuple(self._of_finished("history"))

    def losses(self, split: Literal["train", "validation"]) -> tuple[tuple[int, float], ...]:
        """Return (step, loss) at each entry of the log."""
        key = {"train": "loss", "validation": "eval_loss"}[split]
        return tuple((int(entry["step"]), entry[key]) for entry in self.history if key in entry)

    @cached_property
    def predictions(self) -> Mapping[str, Predictions]:
        """Every row of the evaluated splits, by split and column."""
        self._of_finished("steps")
        return read_predictions(self.folder) if self.rows is None else self.rows

    def reasons(self, *sections: str) -> dict[str, str]:
        """Return why figures of these sections of the record are missing, by their places in it."""
        return reasons({section: self._of_finished(section) for section in sections})

    @cached_property
    def _diagnosis(self) -> SavedDiagnosis:
        return read_diagnosis(self.folder, self.id)

    def _of_finished(self, key: str) -> Any:
        if not self.is_finished:
            raise LopsidedError(f"{self.folder} holds {_STATES[self.status]}; expected a finished run; finish it first")
        return self.record[key]


def read_run(folder: str | Path) -> Run | None:
    """Read the run in a folder; None if there is none yet.

    A record says "running" until its process writes another status. Where the process is gone, the status is "cut off".

    Raises:
        LopsidedError: if `run.json` is not a record of ours, or not a whole one.
    """
    folder = Path(folder)
    path = folder / RECORD
    if not path.exists():
        return None
    record = _record_in(path)
    status, error = record.get("status"), record.get("error")
    if status == "running" and not is_held(folder):
        status, error = "cut off", _KILLED
        record |= {"status": status, "error": error}
    if status != "finished" and status not in _STATES:
        raise LopsidedError(f"{path}: expected a status of a run, received {status!r:.40}; train it again")
    needed = (*BEGUN, *(FINISHED if status == "finished" else ()))
    if missing := [key for key in needed if key not in record]:
        raise LopsidedError(
            f"{path} is not a whole run: expected {', '.join(needed)}, received none of {', '.join(missing)}; train it "
            "again"
        )
    if wrong := [key for key in BEGUN if not isinstance(record[key], dict)]:
        raise LopsidedError(f"{path}: expected an object as {', '.join(wrong)}, received another value; train it again")
    return Run(
        folder=folder,
        status=cast(Status, status),
        error=error,
        settings=record["config"],
        versions=record["versions"],
        machine=record["machine"],
        record=record,
    )


def _record_in(path: Path) -> dict[str, Any]:
    try:
        record = loads(path.read_text())
    except json.JSONDecodeError as error:
        raise LopsidedError(f"{path}:{error.lineno}: not JSON ({error.msg}); delete the folder") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise LopsidedError(f"{path} is not a run of schema {SCHEMA}; choose another folder")
    return record


def finished_run(folder: str | Path) -> Run:
    """Read the finished run in a folder.

    Raises:
        LopsidedError: if there is none.
    """
    run = read_run(folder)
    if run is None or not run.is_finished:
        state = "no run" if run is None else _STATES[run.status]
        raise LopsidedError(f"{folder} holds {state}; expected a finished run; make one with `lopsided train`")
    return run


def run_folders(path: str | Path) -> list[Path]:
    """Return the run directory at a path, or those below it: a comparison keeps its own in `runs`.

    Raises:
        LopsidedError: if there is none.
    """
    folders = list(folders_with([RECORD], Path(path)))
    if not folders:
        raise LopsidedError(
            f"expected a run directory or a folder of them, got {path} without a {RECORD}; make one with "
            "`lopsided train` or `lopsided compare`"
        )
    return folders
