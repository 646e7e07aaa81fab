"""A model to try something on, which shares its frozen weights with the one that it was copied from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lopsided.advise.by_name import Batch
from lopsided.models.shared_copy import own_what_trains, shared_copy
from lopsided.runs.calibration import calibrated
from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import Inputs
from lopsided.runs.preflight import total_steps
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
        data = inputs.data
        steps = total_steps(config, len(data.encoded.splits["train"]))
        model: Any = prepare(shared_copy(inputs.model), config.resolve_method(), data.task, config, steps)
        own_what_trains(model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.detach().clone()
        calibrated(model.to(where), config, data)
        yield TrialModel(model=model.to(where), device=where)
