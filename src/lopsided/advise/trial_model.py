"""A model to try something on, which shares its frozen weights with the one that it was copied from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from torch import nn

from lopsided.advise.by_name import Batch
from lopsided.errors import LopsidedError
from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import Inputs
from lopsided.runs.prepare import prepare

# What PEFT calls the copy of a task's head that trains next to an adapter.
HEAD_COPY = ".modules_to_save."


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialModel:
    """A model with a method on it, as a run would train it, and the device that it is on."""

    model: Any
    device: torch.device

    @property
    def trained(self) -> list[nn.Parameter]:
        """All that the method trains, the task's head included."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def factors(self) -> list[nn.Parameter]:
        """What the method trains without the head that comes on top; all of it where there is nothing else."""
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        return [p for name, p in named if HEAD_COPY not in name] or [p for _, p in named]

    def move(self, batch: Batch) -> Batch:
        """Return a batch on the model's device."""
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


@contextmanager
def trial_model(config: TrainConfig, inputs: Inputs) -> Iterator[TrialModel]:
    """Give a model with the run's method on it; the inputs' model and the random state are left as they were.

    Frozen weights are shared with the inputs' model, which costs no memory; what trains is the trial's own.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    where = torch.device("cpu") if device is None else device
    with torch.random.fork_rng(devices=[] if device is None else None, device_type=where.type if device else "cuda"):
        torch.manual_seed(config.seed)
        model: Any = prepare(_shared_copy(inputs.model), config.resolve_method(), inputs.data.task, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.detach().clone()
        yield TrialModel(model=model.to(where), device=where)


def _shared_copy(model: nn.Module) -> nn.Module:
    """Copy the modules, but not the weights: every parameter is a new object on the same memory.

    A parameter of another class, such as a quantized one, is copied as its class says.
    """
    shared = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad)
        for p in model.parameters()
        if type(p) is nn.Parameter
    }
    copied: nn.Module = copy.deepcopy(model, shared)
    return copied


def training_batches(config: TrainConfig, inputs: Inputs, count: int) -> list[Batch]:
    """Return batches of training rows, shuffled by the seed; rows come again where there are too few.

    Raises:
        LopsidedError: if there are no training rows.
    """
    data = inputs.data
    rows, collate = data.encoded.splits["train"], data.collator()
    if not len(rows):
        raise LopsidedError("expected training rows to guess a learning rate from, got none; give the task some")
    order: Sequence[int] = np.random.RandomState(config.seed).permutation(len(rows)).tolist()
    endless = chain.from_iterable(repeat(order))
    return [dict(collate([rows[next(endless)] for _ in range(config.batch_size)])) for _ in range(count)]
