"""Clipping: a client's update is scaled down to an L2 norm before it is sent, so that the server never sees more.

Notation: the update is what was trained minus what the round started from, over all tensors together (flat clipping):
Δ' = Δ·min(1, C/|Δ|). A chain's single factor starts a link at zero, so of it the update is the factor itself; a head
starts from its last average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lopsided.federated.factors import trained_tensors


def update_of(tensors: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the update in float64, where the difference of two float32 numbers of like size is exact."""
    return {name: tensor.to(torch.float64) - start[name].to(torch.float64) for name, tensor in tensors.items()}


def flat_norm(update: Mapping[str, Tensor]) -> float:
    """Return the L2 norm over all tensors together.

    Example:
        >>> flat_norm({"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])})
        5.0
    """
    return math.sqrt(sum(float(tensor.to(torch.float64).square().sum()) for tensor in update.values()))


def clip_scale(update: Mapping[str, Tensor], norm: float) -> float:
    """Return by what an update is multiplied so that its norm is at most `norm`: 1 for one that is small enough."""
    size = flat_norm(update)
    return 1.0 if size <= norm else norm / size


def clipped_update(update: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """Return an update, in float64, of at most the norm."""
    scale = clip_scale(update, norm)
    return {name: scale * each for name, each in update.items()}


def clipped(tensors: Mapping[str, Tensor], start: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """Return the tensors with their update clipped; the very same ones if its norm is small enough.

    Args:
        tensors: what was trained.
        start: what it started from, by the same names.
        norm: the largest norm of the difference.

    Shapes:
        as they were, float32.

    Example:
        >>> clipped({"a": torch.tensor([7.0])}, {"a": torch.tensor([5.0])}, norm=0.5)
        {'a': tensor([5.5000])}
    """
    update = update_of(tensors, start)
    scale = clip_scale(update, norm)
    if scale == 1.0:
        return dict(tensors)
    return {name: (start[name].to(torch.float64) + scale * each).to(torch.float32) for name, each in update.items()}


class StartNote(TrainerCallback):
    """Keep a copy of the trained tensors as they are when training begins.

    Add this callback after `ChainCallback`, so that the chain has advanced by then.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Copy what trains."""
        self.tensors = trained_tensors(kwargs["model"])
