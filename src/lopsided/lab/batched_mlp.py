"""Many small networks at once, each with its own adapters, merges and optimizer: one batched product for all of them.

Notation: R runs of a ReLU network x -> W_3·relu(W_2·relu(W_1·x + b_1) + b_2) + b_3. A run has the factors B_l, A_l of
rank r next to W_l, of which it trains one or both, and may merge them into W_l between two epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Networks:
    """R networks.

    Shapes:
        W: for each layer (R, d_out, d_in); b: for each layer (R, d_out).
    """

    W: list[Tensor]
    b: list[Tensor]

    @property
    def parameters(self) -> list[Tensor]:
        """Weights, then biases."""
        return [*self.W, *self.b]

    def take(self, runs: Sequence[int]) -> Networks:
        """Return copies of some of the networks, in that order; a network may be taken more than once."""
        return Networks(W=[W[list(runs)] for W in self.W], b=[b[list(runs)] for b in self.b])


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The adapters of R networks.

    Shapes:
        A: for each layer (R, r, d_in); B: for each layer (R, d_out, r).
    """

    A: list[Tensor]
    B: list[Tensor]

    @property
    def parameters(self) -> list[Tensor]:
        """The factors A of all layers, then B."""
        return [*self.A, *self.B]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How runs train.

    Args:
        epochs: passes over the training rows; rows that do not fill a last batch are left out of that epoch.
        dropout: the probability with which a hidden number is dropped.
    """

    lr: float
    batch: int
    epochs: int
    dropout: float = 0.0
    weight_decay: float = 0.01


def new_networks(widths: Sequence[int], seeds: Sequence[int]) -> Networks:
    """Return one network per seed, weights and biases uniform on ±1/√d_in, as `torch.nn.Linear` draws them."""
    W: list[list[Tensor]] = []
    b: list[list[Tensor]] = []
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        shapes = list(zip(widths[1:], widths[:-1]))
        W.append([(torch.rand(d_out, d_in, generator=draw) * 2 - 1) / d_in**0.5 for d_out, d_in in shapes])
        b.append([(torch.rand(d_out, generator=draw) * 2 - 1) / d_in**0.5 for d_out, d_in in shapes])
    return Networks(W=[torch.stack(layer) for layer in zip(*W)], b=[torch.stack(layer) for layer in zip(*b)])


def logits(
    x: Tensor, networks: Networks, factors: Factors | None = None, drop: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the networks' outputs: (R, n, d_in) -> (R, n, classes)"""
    last = len(networks.W) - 1
    for layer, (W, b) in enumerate(zip(networks.W, networks.b)):
        z = torch.baddbmm(b[:, None], x, W.mT)
        if factors is not None:
            z = z + x @ factors.A[layer].mT @ factors.B[layer].mT
        x = z if layer == last else torch.relu(z)
        if drop is not None and layer < last:
            x = drop(x)
    return x


class FreshAdamW:
    """AdamW over batched tensors, whose state can be cleared for some of the runs.

    Moments, steps and bias corrections are kept per run, so that a run that restarts does not see the others.

    Args:
        parameters: each of (R, ...).
        trained: for each parameter, a mask of (R,): the runs in which it moves.
    """

    def __init__(self, parameters: list[Tensor], trained: list[Tensor], lr: float, weight_decay: float) -> None:
        self.parameters, self.lr, self.weight_decay = parameters, lr, weight_decay
        self.masks = [_with_axes_of(mask.to(p.dtype), p) for mask, p in zip(trained, parameters)]
        self.steps = torch.zeros(len(parameters[0]))
        self.m = [torch.zeros_like(p) for p in parameters]
        self.v = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Take one step with the gradients of the parameters, in their order."""
        self.steps += 1
        for p, g, m, v, mask in zip(self.parameters, gradients, self.m, self.v, self.masks):
            m.lerp_(g, 0.1)
            v.lerp_(g * g, 0.001)
            # The bias corrections, with each run's own number of steps since its last restart.
            first, second = _with_axes_of(1 - 0.9**self.steps, p), _with_axes_of(1 - 0.999**self.steps, p)
            move = (m / first) / ((v / second).sqrt_() + 1e-8) + self.weight_decay * p
            p -= self.lr * mask * move

    def restart(self, runs: Tensor) -> None:
        """Clear the state of the runs in a mask of (R,)."""
        self.steps[runs] = 0
        for state in (*self.m, *self.v):
            state[runs] = 0


def train(
    networks: Networks,
    factors: Factors | None,
    trained: list[Tensor],
    recipe: Recipe,
    *,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    seed: int,
    before_epoch: Callable[[int, FreshAdamW], None] = lambda epoch, optimizer: None,
) -> None:
    """Train in place: the factors, or without them the networks' own weights and biases.

    Runs with the same rows see the same batches, so that what they differ by is the method.

    Args:
        trained: for each parameter, a mask of (R,): the runs in which it moves.
        before_epoch: called with the epoch and the optimizer; may merge and draw fresh factors.

    Shapes:
        x: (examples, d_in); y: (examples,); rows: (S, n), the training rows of S seeds. R is a multiple of S, and the
        runs of a seed lie S apart.
    """
    parameters = (networks if factors is None else factors).parameters
    for p in parameters:
        p.requires_grad_(True)
    optimizer = FreshAdamW(parameters, trained, recipe.lr, recipe.weight_decay)
    draw = torch.Generator().manual_seed(seed)
    copies = len(parameters[0]) // len(rows)
    keep = 1 - recipe.dropout

    def drop(hidden: Tensor) -> Tensor:
        return hidden * (torch.rand(hidden.shape, generator=draw) < keep) / keep

    for epoch in range(recipe.epochs):
        before_epoch(epoch, optimizer)
        order = rows.gather(1, torch.rand(rows.shape, generator=draw).argsort(dim=1))
        # Without the rows that do not fill a last batch.
        for start in range(0, rows.shape[1] - recipe.batch + 1, recipe.batch):
            batch = order[:, start : start + recipe.batch]
            out = logits(x[batch].repeat(copies, 1, 1), networks, factors, drop if recipe.dropout else None)
            # The sum over runs of each run's mean, so that no run's gradient depends on the others.
            loss = F.cross_entropy(out.flatten(0, 1), y[batch].repeat(copies, 1).flatten(), reduction="sum")
            optimizer.step(torch.autograd.grad(loss / recipe.batch, parameters))
    for p in parameters:
        p.requires_grad_(False)


@torch.no_grad()
def merge(networks: Networks, factors: Factors, runs: Tensor) -> None:
    """Add B·A to W in the runs of a mask; the factors stay as they are."""
    for W, A, B in zip(networks.W, factors.A, factors.B):
        W[runs] += B[runs] @ A[runs]


@torch.no_grad()
def accuracy(networks: Networks, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Return the share of right answers in percent: (R,), for rows of (S, n) as in `train`."""
    shares = []
    for run in range(len(networks.W[0])):
        own_rows = rows[run % len(rows)]
        out = logits(x[own_rows][None], networks.take([run]))[0]
        shares.append((out.argmax(dim=1) == y[own_rows]).double().mean() * 100)
    return torch.stack(shares)


def _with_axes_of(values: Tensor, p: Tensor) -> Tensor:
    """Numbers per run, (R,), with as many axes as p."""
    return values.reshape(-1, *[1] * (p.dim() - 1))
