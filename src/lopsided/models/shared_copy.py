"""A copy of a model that shares its weights: several adapters can be put on one base in memory."""

from __future__ import annotations

import copy

import torch
from torch import nn


def shared_copy(model: nn.Module) -> nn.Module:
    """Copy a model's modules and buffers, but not its weights: each parameter is a new object on the same memory.

    A parameter of a class of its own, such as a quantized one, is copied as that class says. What is trained in the
    copy needs memory of its own first: `own_what_trains`.
    """
    shared = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad)
        for p in model.parameters()
        if type(p) is nn.Parameter
    }
    copied: nn.Module = copy.deepcopy(model, shared)
    return copied


@torch.no_grad()
def own_what_trains(model: nn.Module) -> None:
    """Give every parameter with a gradient memory of its own, with the same numbers."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.detach().clone()
