"""A finished run's model, loaded again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from lopsided.errors import LopsidedError
from lopsided.method import method_from_parts
from lopsided.models.load import Goal, load_model
from lopsided.runs.directory import read_run
from lopsided.runs.saved_forms import FORMS
from lopsided.runs.trajectory import snapshots
from lopsided.tasks.column_names import FIRST_INPUTS
from lopsided.tasks.reading import Reading

_WORDS = {"running": "is not over", "cut off": "is cut off"}


def finished_run(folder: Path) -> dict[str, Any]:
    """A finished run's record.

    Raises:
        LopsidedError: if the folder holds no finished run.
    """
    record = read_run(folder)
    if record is None or record["status"] != "finished":
        state = "no run" if record is None else f"a run that {_WORDS.get(record['status'], record['status'])}"
        raise LopsidedError(f"{folder} holds {state}; expected a finished run; make one with `lopsided train`")
    return record


def base_of(record: Mapping[str, Any]) -> Any:
    """The model that a run began with, its new head as it was drawn; the task's rows need not be there."""
    config, task = record["config"], record["task"]
    goal = Goal(name=task["name"], kind=task["kind"], labels=tuple(task["labels"]))
    return load_model(config["model"], goal, seed=config["seed"])[0]


def check_reading(folder: Path, record: Mapping[str, Any], reading: Reading | None) -> None:
    """Refuse rows that are read from other columns than the run's were.

    A run of version 0.1.0 does not say from which: that version knew few shapes, and passed over other columns.

    Raises:
        LopsidedError: if the data has changed, or this version reads it in another way.
    """
    if reading is None:
        return
    known = record["task"].get("columns")
    same = reading.to_json()["columns"] == known if known else reading.inputs in FIRST_INPUTS
    if not same:
        raise LopsidedError(
            f"{folder}: expected the columns that the run has learned from{f', {known}' if known else ''}; received "
            f"rows that are read as {reading}; restore the data, or train again"
        )


def reload(folder: Path, *, snapshot: int | None = None, trainable: bool = False) -> nn.Module:
    """The model as the run left it, or as it was at one of its evaluations.

    Args:
        snapshot: the step of that evaluation; None takes the checkpoint that the run ended with.
        trainable: whether the parameters that the run trained have gradients, and no others; without it, an adapter's
            have none.

    Raises:
        LopsidedError: if the folder holds no finished run, or no snapshot of that step.
    """
    record = finished_run(folder)
    method = method_from_parts(record["method"])
    learned = folder / "adapter" if snapshot is None else _snapshot(folder, snapshot)
    return FORMS[method.side.saved_as].load(base_of(record), learned, trainable)


def reload_merged(folder: Path, *, snapshot: int | None = None) -> nn.Module:
    """The same as a plain model, its adapter in its weights.

    Raises:
        LopsidedError: as `reload` does.
    """
    model = reload(folder, snapshot=snapshot)
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def _snapshot(folder: Path, step: int) -> Path:
    found = snapshots(folder)
    if step not in found:
        there = ", ".join(str(number) for number in found) or "none"
        raise LopsidedError(
            f"{folder} holds no snapshot of step {step}, but of {there}; choose one of these, or train again with "
            "--trajectory"
        )
    return found[step]
