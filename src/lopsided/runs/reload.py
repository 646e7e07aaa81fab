"""A finished run's model and rows, loaded again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from lopsided.baselines.put_on import taken_off
from lopsided.errors import LopsidedError
from lopsided.models.load import load_model
from lopsided.models.task_classes import Goal
from lopsided.runs.inputs import Data, load_data
from lopsided.runs.run import Run, finished_run
from lopsided.runs.saved_forms import FORMS
from lopsided.runs.trajectory import snapshots
from lopsided.tasks.column_names import FIRST_INPUTS
from lopsided.tasks.reading import Reading


def base_of(run: Run) -> PreTrainedModel:
    """Load the model that a run began with, its new head as it was drawn; the task's rows need not be there."""
    model: PreTrainedModel = load_model(run.settings["model"], _goal(run), seed=run.seed)[0]
    return model


def data_of(run: Run) -> Data:
    """Load the rows that a run learned from, as tokens, read as it read them; no model's weights are loaded.

    Raises:
        LopsidedError: if the rows are not there, or would be read from other columns.
    """
    # The figure that the run was judged by says whether labels are classes or scores, where they could be both.
    data = load_data(dataclasses.replace(run.config, metric=run.task.metric))
    check_reading(run, data.task.reading)
    return data


def check_reading(run: Run, reading: Reading | None) -> None:
    """Refuse rows that are read from other columns than the run's were.

    A run of version 0.1.0 does not say from which: that version knew few shapes, and passed over other columns.

    Raises:
        LopsidedError: if the data has changed, or this version reads it in another way.
    """
    if reading is None:
        return
    known = run.task.columns
    same = reading.to_json()["columns"] == known if known else reading.inputs in FIRST_INPUTS
    if not same:
        raise LopsidedError(
            f"{run.folder}: expected the columns that the run has learned from{f', {known}' if known else ''}; "
            f"received rows that are read as {reading}; restore the data, or train again"
        )


def reload(
    folder: Path, *, snapshot: int | None = None, trainable: bool = False, base: nn.Module | None = None
) -> nn.Module:
    """Load the model as the run left it, or as it was at one of its evaluations.

    Args:
        folder: of a finished run.
        snapshot: the step of that evaluation; None takes the checkpoint that the run ended with.
        trainable: whether the parameters that the run trained have gradients, and no others; without it, an adapter's
            have none.
        base: the model that the run began with, which is changed; None loads it.

    Raises:
        LopsidedError: if the folder holds no finished run, or no snapshot of that step.
    """
    run = finished_run(folder)
    learned = folder / "adapter" if snapshot is None else _snapshot(folder, snapshot)
    return FORMS[run.method.side.saved_as].load(
        learned, lambda: base_of(run) if base is None else base, _goal(run), trainable
    )


def reload_merged(folder: Path, *, snapshot: int | None = None) -> nn.Module:
    """Load the same as a plain model, its adapter in its weights.

    Raises:
        LopsidedError: as `reload` does.
    """
    model = reload(folder, snapshot=snapshot)
    return taken_off(model, merged=True) if isinstance(model, PeftModel) else model


def _goal(run: Run) -> Goal:
    task = run.task
    return Goal(name=task.name, kind=task.kind, labels=task.labels, modality=task.modality)


def _snapshot(folder: Path, step: int) -> Path:
    paths = snapshots(folder)
    if step not in paths:
        steps = ", ".join(str(number) for number in paths) or "none"
        raise LopsidedError(
            f"{folder} holds no snapshot of step {step}, but of {steps}; choose one of these, or train again with "
            "--trajectory"
        )
    return paths[step]
