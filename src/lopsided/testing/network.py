"""Small networks for the contracts of methods: two layers of each kind that takes an adapter, and a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.adapt import adapt
from lopsided.calibrate import calibrate
from lopsided.method import Method
from lopsided.optim import param_groups

RANK = 2
_DEVICE = ContextVar("_DEVICE", default="cpu")


class LayersNet(nn.Module):
    """A network of two layers, `first` and `second`, that are adapted.

    Class attributes:
        weights: the names of what is adapted.
        targets: the configuration's fields that say so.
    """

    weights: ClassVar[Sequence[str]] = ("first.weight", "second.weight")
    targets: ClassVar[Mapping[str, Any]] = {"target_modules": ["first", "second"]}


class Net(LayersNet):
    """(n, 7) -> (n, 3): two layers to adapt, neither square, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(7, 9), Conv1D(11, 9), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the network's output."""
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class ConvolutionNet(LayersNet):
    """(n, 4, 7, 6) -> (n, 3): a grouped convolution in two dimensions, one in one dimension, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2)
        self.second, self.head = nn.Conv1d(6, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the network's output."""
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)).flatten(2))).mean(-1))


class EmbeddingNet(LayersNet):
    """(n, 6) tokens -> (n, 3): two embeddings with vocabularies of different sizes, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Embedding(7, 9), nn.Embedding(8, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the network's output."""
        return self.head(torch.tanh(self.first(x) * self.second(x)).sum(-2))


class Expert(nn.Module):
    """Two stacks of three matrices, of which every row takes its own."""

    def __init__(self) -> None:
        super().__init__()
        # So wide that two draws of two columns do not meet by chance.
        self.up = nn.Parameter(torch.randn(3, 30, 31) / 5)
        self.down = nn.Parameter(torch.randn(3, 29, 30) / 5)

    def forward(self, x: Tensor, which: Tensor) -> Tensor:
        """Compute each row with its expert's matrices: (n, 31), (n,) -> (n, 29)."""
        out = x.new_zeros(len(x), self.down.shape[1])
        for expert in range(len(self.up)):
            [rows] = torch.where(which == expert)
            hidden = torch.tanh(nn.functional.linear(x[rows], self.up[expert]))
            out = out.index_copy(0, rows, hidden @ self.down[expert].T)
        return out


class ExpertsNet(nn.Module):
    """(n, 31) -> (n, 3): experts whose matrices are parameters, and a head."""

    weights: ClassVar[Sequence[str]] = ("experts.up", "experts.down")
    targets: ClassVar[Mapping[str, Any]] = {"target_parameters": ["experts.up", "experts.down"]}

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.head = Expert(), nn.Linear(29, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the network's output; rows take the experts in turns."""
        return self.head(self.experts(x, torch.arange(len(x), device=x.device) % 3))


# By the kind of the layers: the network, and the shape of its input.
NETWORKS: Mapping[str, tuple[Callable[[], LayersNet | ExpertsNet], tuple[int, ...]]] = {
    "linear": (Net, (5, 7)),
    "convolution": (ConvolutionNet, (5, 4, 7, 6)),
    "embedding": (EmbeddingNet, (5, 6)),
    "parameter": (ExpertsNet, (12, 31)),
}


@contextmanager
def networks_on(device: str) -> Iterator[None]:
    """Inside the context `network` puts what it builds on a device; the numbers are the same on each."""
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


def network(seed: int = 0, kind: str = "linear") -> tuple[LayersNet | ExpertsNet, Tensor]:
    """Return a network in evaluation mode, and an input, on the device that `networks_on` names.

    Args:
        kind: of the layers to adapt, among `NETWORKS`.
    """
    build, shape = NETWORKS[kind]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        net = build().eval()
        # Of the tokens each occurs, since a selector may read any of them.
        x = torch.randn(shape) if kind != "embedding" else torch.randperm(shape[0] * shape[1]).view(shape) % 7
    return net.to(_DEVICE.get()), x.to(_DEVICE.get())


def adapted(method: Method, base: nn.Module, *, seed: int = 0) -> PeftModel:
    """Return one of the networks with an adapter of the method, with a chain of five links if it is chained.

    A method that reads data is calibrated on `calibration_rows`.
    """
    chain = None if method.chain is None else dataclasses.replace(method.chain, links=5, every=None)
    method = dataclasses.replace(method, chain=chain)
    assert isinstance(base, (LayersNet, ExpertsNet))
    model = adapt(base, method, r=RANK, **base.targets, modules_to_save=["head"], seed=seed).eval()
    if method.reads_inputs:
        calibrate(model, [calibration_rows(base)])
    return model


def fits(method: Method, kind: str) -> bool:
    """Return whether layers of a kind take the method: the inputs of a parameter are visible to its module only."""
    return not method.reads_inputs or kind != "parameter"


def calibration_rows(base: nn.Module) -> Tensor:
    """Return 64 rows of a network of `NETWORKS`, for methods that read some; numbers in one place differ in size."""
    generator, device = torch.Generator().manual_seed(1), next(base.parameters()).device
    shape = next(shape for build, shape in NETWORKS.values() if build is type(base))
    if isinstance(base, EmbeddingNet):
        # Of seven tokens the later ones are the more frequent.
        tokens: Tensor = torch.randint(0, 49, (64, *shape[1:]), generator=generator, device="cpu")
        return tokens.sqrt().long().to(device)
    size = torch.linspace(0.5, 2.0, shape[1], device="cpu").view(-1, *(1 for _ in shape[2:]))
    return (torch.randn(64, *shape[1:], generator=generator, device="cpu") * size).to(device)


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int) -> None:
    """Train for some steps, on a loss whose gradient reaches every factor."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Return an AdamW over the model's parameter groups."""
    return torch.optim.AdamW(param_groups(model, lr=1e-2))
