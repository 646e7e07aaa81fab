"""Optimizers that keep what the usual ones do not, as those of other libraries do."""

from __future__ import annotations

import torch
from torch import nn, optim


class MasterCopies(optim.AdamW):
    """As apex's and DeepSpeed's 16-bit optimizers: the groups hold float32 copies of the model's parameters."""

    def __init__(self, parameters, **options):
        self.of_the_model = list(parameters)
        super().__init__([nn.Parameter(p.detach().float().clone()) for p in self.of_the_model], **options)


class FlatPartition(optim.AdamW):
    """As DeepSpeed's ZeRO: one flat float32 parameter holds this process's share of all of them."""

    def __init__(self, parameters, **options):
        flat = torch.cat([p.detach().float().flatten() for p in parameters])
        super().__init__([nn.Parameter(flat)], **options)


class MasterWeights(optim.AdamW):
    """As 16-bit optimizers that keep a master weight in each parameter's state, and write it into the parameter."""

    def step(self, closure=None):
        super().step(closure)
        for parameter, state in self.state.items():
            state.setdefault("master_weight", parameter.detach().float().clone())


class ScheduleFree(optim.AdamW):
    """As schedule-free optimizers: a second sequence of weights in the state."""

    def step(self, closure=None):
        super().step(closure)
        for parameter, state in self.state.items():
            state.setdefault("z", parameter.detach().clone())


class CommonCount(optim.AdamW):
    """As apex's FusedAdam: one step count for a whole group."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1


class Quantized(torch.Tensor):
    """As the 8-bit states of torchao: a tensor of another class."""


class QuantizedState(optim.AdamW):
    """As 8-bit optimizers of torchao."""

    def step(self, closure=None):
        super().step(closure)
        for state in self.state.values():
            state["exp_avg"] = state["exp_avg"].as_subclass(Quantized)
