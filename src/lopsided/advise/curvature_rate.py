"""A learning rate from the curvature of the loss in what a method trains, at the start.

Notation: g and H are the gradient and the Hessian of the loss in the n trained numbers φ, in the optimizer's own units:
a number that learns at ρ times the rate is φ = θ/ρ, so that H = ρ·H_θ·ρ. λ is H's largest eigenvalue.

Gradient descent is stable below 2/λ. Adam is not gradient descent: its step is about η in each of n numbers, whatever
the gradient's size, so that it has the length η·√n and raises the loss by at most η²·n·λ/2 by curvature. A rule that
allows every method the same such rise is η = C/√(n·λ). It also scales as it has to: where a layer's scale grows c-fold,
λ becomes c²·λ and Adam's right step η/c, which a rule of 1/λ would miss. C is one number for all methods and tasks,
fitted once (docs/decisions/0023-first-rates.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lopsided.advise.trial_model import trial_model
from lopsided.curvature.batches import loss_and_gradient
from lopsided.curvature.hessian import hessian_product
from lopsided.curvature.lanczos import largest_eigenvalue
from lopsided.errors import LopsidedError
from lopsided.method.sketch import generator
from lopsided.models.mode_contexts import gradients_of, model_mode
from lopsided.optim.groups import param_groups
from lopsided.runs.batches_of_rows import training_batches
from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import Inputs

BATCHES, STEPS = 4, 12
# Of λ. The rate needs its square root alone.
TOLERANCE = 0.05
# C, in the square root of the loss's unit.
FACTOR = 1.5


@dataclass(frozen=True, kw_only=True)
class StartCurvature:
    """The curvature of the loss in what a method trains, before training.

    Args:
        top: λ.
        residual: how far λ may be from an eigenvalue of H.
        slope: the mean |g_i| over the trained numbers.
        along: sᵀ·H·s / n for s = sign(g), the curvature along Adam's first step.
        numbers: n.
    """

    top: float
    residual: float
    slope: float
    along: float
    numbers: int

    @property
    def rate(self) -> float:
        """C/√(n·λ).

        Raises:
            LopsidedError: if the loss curves down in every direction.
        """
        if self.top <= 0:
            raise LopsidedError(
                f"expected a positive top eigenvalue at the start, got {self.top:g}; guess the rate by a range test"
            )
        return FACTOR / math.sqrt(self.numbers * self.top)


def start_curvature(
    config: TrainConfig, inputs: Inputs, *, batches: int = BATCHES, steps: int = STEPS, head: bool = False
) -> StartCurvature:
    """Measure the curvature at the start in the factors that a method trains, on training rows.

    With B = 0 the loss does not depend on A, so that LoRA's curvature is that of B and of B with A. The inputs' model
    is left as it was.

    Args:
        batches: of training rows; each Lanczos step costs about five forward passes over them.
        head: whether the head that trains next to an adapter counts, too.
    """
    rows = training_batches(config, inputs, batches)
    with trial_model(config, inputs) as trial:
        batches_there = [trial.move(batch) for batch in rows]
        chosen = trial.trained if head else trial.factors
        multiples = _multiples(trial.model, chosen)
        size = sum(p.numel() for p in chosen)
        start = torch.from_numpy(generator(config.seed, 0).standard_normal(size)).to(trial.device, torch.float32)

        def product(vector: Tensor) -> Tensor:
            return multiples * hessian_product(trial.model, chosen, batches_there, multiples * vector)

        with model_mode(trial.model, training=False), gradients_of(trial.model, chosen):
            _, gradients = loss_and_gradient(trial.model, chosen, batches_there)
            g = multiples * torch.cat([gradient.reshape(-1) for gradient in gradients])
            sign = g.sign()
            along = float(torch.dot(sign, product(sign))) / size
            top = largest_eigenvalue(product, start, steps=steps, tolerance=TOLERANCE)
    return StartCurvature(top=top.value, residual=top.residual, slope=float(g.abs().mean()), along=along, numbers=size)


def _multiples(model: nn.Module, chosen: Sequence[nn.Parameter]) -> Tensor:
    """Return ρ for each trained number: (n,)"""
    rates = {id(p): group["lr"] for group in param_groups(model, 1.0) for p in group["params"]}
    return torch.cat([torch.full((p.numel(),), rates[id(p)], device=p.device) for p in chosen])
