"""Advice for a model and a task by their names, with the task's head trained first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from lopsided.advise.layer_gains import Advice, adapters_named, advise
from lopsided.errors import LopsidedError
from lopsided.finite import all_finite
from lopsided.method import METHODS, Method
from lopsided.models.heads import task_heads
from lopsided.models.mode_contexts import gradients_of, model_mode
from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import load_inputs
from lopsided.runs.preflight import check_rows
from lopsided.tasks import Task
from lopsided.tasks.kinds import KINDS
from lopsided.theory.checks import check_not_negative, check_positive

Batch = dict[str, Tensor]


def advise_task(
    config: TrainConfig,
    *,
    methods: Sequence[str | Method] | None = None,
    batches: int = 4,
    head_steps: int = 60,
    damping: float = 0.1,
    seeds: int = 4,
    note: Callable[[str], None] = lambda text: None,
) -> Advice:
    """Estimate the gains of methods as `advise` does, for a model and a task by name.

    A task's head is new and random, and the gradient around it says little about the task. So the head alone is trained
    first, on rows that the estimate does not use.

    Args:
        config: its model, task, rank, target_modules, batch_size, max_length and seed are used, and the fields that
            say how the task's rows are read; the other fields are for runs.
        batches: how many batches the estimate comes from.
        head_steps: 0 leaves the head as it is. Generation has none.
        note: tells a person how far the work is.

    Raises:
        LopsidedError: for bad input, or a task with too few training rows.
    """
    check_positive(seeds=seeds)
    check_not_negative(damping=damping, head_steps=head_steps)
    # Everything that can be wrong with the request is refused before the model is loaded.
    adapters = adapters_named(methods)
    if batches < 2:
        raise LopsidedError(f"expected at least 2 batches, got {batches}; raise --batches")
    inputs = advice_inputs(config)
    for_estimate, others = task_batches(inputs.rows, config.batch_size, batches, seed=config.seed)
    if inputs.task.described:
        note(f"rows read as {inputs.task.described}")
    if KINDS[inputs.task.kind].has_head and head_steps > 0:
        fit_head(inputs.model, others, head_steps)
        note(f"trained the head for {head_steps} steps")
    targets = config.targets
    return advise(
        inputs.model,
        for_estimate,
        methods=adapters,
        r=config.rank,
        target_modules="all-linear" if targets is None else targets,
        damping=damping,
        seeds=seeds,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """A task's training rows, of which batches are made.

    Args:
        rows: as tokens.
        collate: makes a batch of several rows.
    """

    rows: Dataset
    collate: Callable[[list[Any]], Mapping[str, Tensor]]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the rows at some indices as one batch."""
        return dict(self.collate([self.rows[int(i)] for i in indices]))


@dataclass(frozen=True, kw_only=True)
class AdviceInputs:
    """What advice is computed from: the task, the model with its head, and the training rows; loaded once."""

    task: Task
    model: PreTrainedModel
    rows: TrainingRows


def advice_inputs(config: TrainConfig) -> AdviceInputs:
    """Load the task, the model with its head, and the training rows.

    Raises:
        LopsidedError: for rows that the model cannot compute.
    """
    inputs = load_inputs(config)
    check_rows(config, inputs)
    data = inputs.data
    rows = TrainingRows(rows=data.encoded.splits["train"], collate=data.collator())
    return AdviceInputs(task=data.task, model=inputs.model, rows=rows)


def task_batches(rows: TrainingRows, size: int, count: int, *, seed: int) -> tuple[list[Batch], list[Batch]]:
    """Return batches for the estimate, and the batches of all other rows.

    Rows are shuffled first, since data sets may be sorted by label. Without other rows, the second list holds the
    batches of the first.

    Raises:
        LopsidedError: if there are not enough rows for two batches.
    """
    order = np.random.RandomState(seed).permutation(len(rows))
    batches = [rows.batch(order[i : i + size].tolist()) for i in range(0, len(order), size)]
    if len(batches) < 2:
        raise LopsidedError(
            f"expected rows for at least 2 batches, got {len(rows)} rows in batches of {size}; lower --batch-size"
        )
    return batches[:count], batches[count:] or batches[:count]


def head_rate() -> float:
    """Return the default learning rate of the first method that trains the task's head alone."""
    return next(method.lr for method in METHODS.values() if method.side.head_alone)


def fit_head(model: PreTrainedModel, batches: Sequence[Batch], steps: int, lr: float | None = None) -> None:
    """Train a task's head alone, in place, with AdamW at a rate that falls linearly to zero; without dropout.

    Args:
        lr: None takes the rate of the first method that trains the head alone.

    Raises:
        LopsidedError: if the model has no head, or its loss is not finite.
    """
    heads = task_heads(model)
    if not heads:
        raise LopsidedError(
            f"expected a model with a head, got {type(model).__name__}, which has none; leave it as it is"
        )
    parameters = [p for name in heads for p in model.get_submodule(name).parameters()]
    rate = head_rate() if lr is None else lr
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    with model_mode(model, training=False), gradients_of(model, parameters):
        for step, batch in zip(range(steps), cycle(batches)):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad(set_to_none=True)
            loss = model(**batch).loss
            if not all_finite(loss):
                raise LopsidedError(
                    f"expected a finite loss, got {loss.item()} at step {step + 1} of training the head; lower its rate"
                )
            loss.backward()
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
