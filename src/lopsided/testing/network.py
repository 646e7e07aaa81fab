"""A small network for the contracts of methods: a `Linear`, a `Conv1D` and a head."""

from __future__ import annotations

import dataclasses

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.adapt import adapt
from lopsided.calibrate import calibrate
from lopsided.method import Method
from lopsided.optim import param_groups

RANK = 2


class Net(nn.Module):
    """(n, 7) -> (n, 3): two layers to adapt, neither square, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(7, 9), Conv1D(11, 9), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the network's output."""
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def network(seed: int = 0) -> tuple[Net, Tensor]:
    """Return a network in evaluation mode, and an input of 5 rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net().eval(), torch.randn(5, 7)


def adapted(method: Method, base: nn.Module, *, seed: int = 0) -> PeftModel:
    """Return a base with an adapter of the method on both layers, with a chain of five links if it is chained.

    A method that reads data is calibrated on `calibration_rows`.
    """
    chain = None if method.chain is None else dataclasses.replace(method.chain, links=5, every=None)
    method = dataclasses.replace(method, chain=chain)
    model = adapt(base, method, r=RANK, target_modules=["first", "second"], modules_to_save=["head"], seed=seed).eval()
    calibrate(model, [calibration_rows(base)])
    return model


def calibration_rows(base: nn.Module) -> Tensor:
    """Return inputs of the network, (64, 7), for methods that read some; columns differ in size."""
    x = torch.randn(64, 7, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.5, 2.0, 7)
    return x.to(next(base.parameters()))


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int) -> None:
    """Train for some steps, on a loss whose gradient reaches every factor."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return an AdamW over the model's parameter groups."""
    return torch.optim.AdamW(param_groups(model, lr=1e-2))
