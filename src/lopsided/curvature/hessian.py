"""The Hessian of a model's loss in some of its parameters: products with vectors, and its top eigenvalue.

Notation: L is the loss over fixed batches, H its Hessian in some of the model's parameters, which have n entries in
all; q is a vector of n entries, those of one parameter after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lopsided.curvature.batches import Batch, Loss, check_batches, model_loss, predictions_in
from lopsided.curvature.lanczos import Ritz, largest_eigenvalue
from lopsided.errors import LopsidedError
from lopsided.method.sketch import generator
from lopsided.models.mode_contexts import gradients_of, model_mode


def hessian_top(
    model: Any,
    batches: Sequence[Batch],
    *,
    parameters: Sequence[nn.Parameter] | None = None,
    steps: int = 30,
    tolerance: float = 1e-3,
    seed: int = 0,
    loss: Loss = model_loss,
) -> Ritz:
    """Compute the largest eigenvalue of the loss's Hessian in the trained parameters, by Lanczos from a random start.

    Args:
        model: as it was trained, its adapter not merged: `reload(folder, trainable=True)`. Without dropout.
        parameters: of H; None takes those with gradients.
        steps, tolerance: as in `largest_eigenvalue`. Each step costs about five forward passes over the batches.

    Raises:
        LopsidedError: if no parameter has a gradient, for batches without labels or a loss that is not finite.

    Source:
        Pearlmutter 1994 (products with the Hessian); Ghorbani et al. 2019, arXiv:1901.10159 (Lanczos).
    """
    chosen = [p for p in model.parameters() if p.requires_grad] if parameters is None else list(parameters)
    if not chosen:
        raise LopsidedError(
            "expected trained parameters, got none with a gradient; load the run with reload(folder, trainable=True)"
        )
    check_batches(batches)
    size = sum(p.numel() for p in chosen)
    start = torch.from_numpy(generator(seed, 0).standard_normal(size)).to(chosen[0].device, torch.float32)
    with model_mode(model, training=False), gradients_of(model, chosen):
        return largest_eigenvalue(
            lambda q: hessian_product(model, chosen, batches, q, loss=loss), start, steps=steps, tolerance=tolerance
        )


def hessian_product(
    model: Any, parameters: Sequence[Tensor], batches: Sequence[Batch], vector: Tensor, *, loss: Loss = model_loss
) -> Tensor:
    """Return H·q as the gradient of ⟨∇L, q⟩: (n,) -> (n,), the parameters' entries one after the other.

    Attention computes by plain products here: its fused kernels have no second derivative.
    """
    counts = [predictions_in(batch) for batch in batches]
    total = torch.zeros_like(vector)
    parts = [piece.view_as(p) for piece, p in zip(vector.split([p.numel() for p in parameters]), parameters)]
    for count, batch in zip(counts, batches):
        if not count:
            continue
        with sdpa_kernel(SDPBackend.MATH):
            # The first derivative with its graph; then that of its inner product with q.
            gradients = torch.autograd.grad(loss(model, batch), parameters, create_graph=True, allow_unused=True)
            slope = torch.stack([(g * part).sum() for g, part in zip(gradients, parts) if g is not None]).sum()
            # A loss that is linear in all of them has no second derivative.
            second = torch.autograd.grad(slope, parameters, allow_unused=True) if slope.requires_grad else ()
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, second)]
        if flat:
            total += count / sum(counts) * torch.cat([piece.reshape(-1) for piece in flat])
    return total
