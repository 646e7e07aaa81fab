"""The largest gap between risk and empirical risk that training B can find next to a frozen Gaussian A.

Notation: f(x) = W'_3·tanh(W'_2·tanh(W'_1·x)) with W'_l = W_l + B_l·A_l, widths 16-48-48-1, W_l and A_l frozen, i.i.d.
N(0, 1/d_in), and B = (B_1, B_2, B_3) in a ball, ‖B‖_F <= 3 over all layers. Inputs are uniform on the sphere of radius
4, the label y is the sign of another such network with one in ten flipped, and the loss is ½(1 - tanh(y·f(x))), in
[0, 1]. R is the expected loss, R_N that of N samples, and the gap is sup_B R(B) - R_N(B).

A seed is a world: W, the teacher, A and the samples. Tensors have the axes (S, D, ...): S seeds, D draws of A in each.
Adam searches the supremum with fresh samples for R at every step. The gap at its end is measured on other fresh
samples, so that it is a lower estimate, which no fit to the samples for R can raise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lopsided.theory import FrozenLayer, single_run_bound

WIDTHS = (16, 48, 48, 1)
SHAPES = tuple(zip(WIDTHS[1:], WIDTHS[:-1]))
INPUT_NORM = 4.0
RADIUS = 3.0
FLIPPED = 0.1
# Samples for R at a step of the ascent, and at its end.
FRESH, REPORTED = 1024, 16384
LR = 0.05


@dataclass(frozen=True, kw_only=True)
class Worlds:
    """S problems, and the generator of all that is drawn for them.

    Shapes:
        W, teacher: for each layer (S, 1, d_out, d_in).
    """

    W: list[Tensor]
    teacher: list[Tensor]
    draw: torch.Generator


def new_worlds(seeds: int, stream: int = 0) -> Worlds:
    """Return as many problems as seeds; the stream keeps experiments apart."""
    draw = torch.Generator().manual_seed(1000 * stream + seeds)
    W, teacher = (
        [torch.randn(seeds, 1, d_out, d_in, generator=draw) / d_in**0.5 for d_out, d_in in SHAPES] for _ in range(2)
    )
    return Worlds(W=W, teacher=teacher, draw=draw)


def new_A(worlds: Worlds, r: int, draws: int = 1) -> list[Tensor]:
    """Draw A of each layer: (S, D, r, d_in)"""
    count = len(worlds.W[0])
    return [torch.randn(count, draws, r, d_in, generator=worlds.draw) / d_in**0.5 for _, d_in in SHAPES]


def zero_B(A: list[Tensor]) -> list[Tensor]:
    """Return B = 0 of each layer: (S, D, d_out, r)"""
    return [torch.zeros(*a.shape[:2], d_out, a.shape[2]) for a, (d_out, _) in zip(A, SHAPES)]


def outputs(x: Tensor, W: list[Tensor]) -> Tensor:
    """Return f(x): (..., n, 16) -> (..., n)"""
    for weight in W[:-1]:
        x = torch.tanh(x @ weight.mT)
    return (x @ W[-1].mT)[..., 0]


@torch.no_grad()
def samples(worlds: Worlds, n: int) -> tuple[Tensor, Tensor]:
    """Draw inputs, (S, 1, n, 16), and labels, (S, 1, n)."""
    x = torch.randn(len(worlds.W[0]), 1, n, WIDTHS[0], generator=worlds.draw)
    x = INPUT_NORM * x / x.norm(dim=-1, keepdim=True)
    kept = torch.rand(x.shape[:-1], generator=worlds.draw) >= FLIPPED
    return x, torch.where((outputs(x, worlds.teacher) > 0) == kept, 1.0, -1.0)


def risk(worlds: Worlds, A: list[Tensor], B: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return the mean loss on samples: (S, D)"""
    adapted = [W + b @ a for W, a, b in zip(worlds.W, A, B)]
    return (0.5 * (1 - torch.tanh(y * outputs(x, adapted)))).mean(dim=-1)


@torch.no_grad()
def project_onto_ball(B: list[Tensor], radius: float = RADIUS) -> None:
    """Move each run's B to the nearest point of the ball, in place."""
    norm = torch.stack([(b * b).sum(dim=(2, 3)) for b in B]).sum(dim=0).sqrt()
    scale = (radius / norm.clamp_min(1e-12)).clamp_max(1.0)[..., None, None]
    for b in B:
        b *= scale


def ascend(worlds: Worlds, A: list[Tensor], x: Tensor, y: Tensor, *, steps: int) -> list[Tensor]:
    """Return B after Adam on R - R_N from B = 0, with a cosine schedule and a projection after each step."""
    B = [b.requires_grad_(True) for b in zero_B(A)]
    optimizer = torch.optim.Adam(B, lr=LR, maximize=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        # A sum over runs, which share no parameter.
        (risk(worlds, A, B, *samples(worlds, FRESH)) - risk(worlds, A, B, x, y)).sum().backward()
        optimizer.step()
        schedule.step()
        project_onto_ball(B)
    return [b.detach() for b in B]


@torch.no_grad()
def true_risk(worlds: Worlds, A: list[Tensor], B: list[Tensor]) -> Tensor:
    """Return R on fresh samples: (S, D)"""
    parts = [risk(worlds, A, B, *samples(worlds, FRESH)) for _ in range(REPORTED // FRESH)]
    return torch.stack(parts).mean(dim=0)


@torch.no_grad()
def gap(worlds: Worlds, A: list[Tensor], B: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return R - R_N: (S, D)"""
    return true_risk(worlds, A, B) - risk(worlds, A, B, x, y)


def sup_gap(worlds: Worlds, A: list[Tensor], x: Tensor, y: Tensor, *, steps: int) -> Tensor:
    """Return the gap at the end of the ascent: (S, D)"""
    return gap(worlds, A, ascend(worlds, A, x, y, steps=steps), x, y)


@torch.no_grad()
def gap_at_zero(worlds: Worlds, sizes: list[int], repeats: int = 100) -> Tensor:
    """Return the root mean square of R - R_N at B = 0, where the rank does not matter: (S, sizes)

    It is the standard deviation of R_N over sample sets, which needs no estimate of R.
    """
    A = new_A(worlds, 1)
    B = zero_B(A)
    deviations = []
    for n in sizes:
        risks = torch.stack([risk(worlds, A, B, *samples(worlds, n))[:, 0] for _ in range(repeats)])
        deviations.append(risks.std(dim=0))
    return torch.stack(deviations, dim=1)


def bounds(worlds: Worlds, A: list[Tensor], n: int, delta: float = 0.05) -> Tensor:
    """Return the explicit single-run bound of each draw of A: (S, D)

    No entry of B exceeds the ball's radius, and y·f enters the loss with slope at most ½.
    """
    norms_W = [torch.linalg.matrix_norm(W, 2)[:, 0] for W in worlds.W]
    norms_A = [torch.linalg.matrix_norm(a, 2) for a in A]
    values = torch.zeros(A[0].shape[:2])
    for seed in range(values.shape[0]):
        for number in range(values.shape[1]):
            layers = [
                FrozenLayer(
                    d_out=d_out,
                    d_in=d_in,
                    r=a.shape[2],
                    norm=float(w[seed]),
                    std=d_in**-0.5,
                    norm_A=float(norm[seed, number]),
                )
                for (d_out, d_in), a, w, norm in zip(SHAPES, A, norms_W, norms_A)
            ]
            bound = single_run_bound(
                layers, n=n, entry_bound=RADIUS, input_bound=INPUT_NORM, loss_lipschitz=0.5, delta=delta
            )
            values[seed, number] = bound.value
    return values


def linear_sup_gap(n: int, r: int, *, worlds: int, draws: int, box: bool = False, d: int = 16, seed: int = 0) -> Tensor:
    """Return the largest gap of a linear model: sup over ‖B‖_F <= 3 of B·A·v, which is 3·‖A·v‖ with v the mean of y·x.

    Labels are coins, so that R is the same for every B, and B·A·v is what R_N falls by under a linear loss.

    Args:
        box: the supremum over entries in [-3, 3] instead, 3·|A·v|_1, whose ball grows with r.

    Shapes:
        -> (worlds, draws): v is drawn per world, A per draw.
    """
    draw = torch.Generator().manual_seed(seed)
    # The mean of N products y·x with x of N(0, I) has the law N(0, I/N).
    v = torch.randn(worlds, 1, d, 1, generator=draw) / math.sqrt(n)
    A = torch.randn(worlds, draws, r, d, generator=draw) / math.sqrt(d)
    return RADIUS * torch.linalg.vector_norm((A @ v)[..., 0], ord=1 if box else 2, dim=-1)
