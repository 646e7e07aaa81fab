"""The moments of a model's layers, from forward and backward passes over a few batches.

Notation: as in `lopsided.theory.sides`. The mean gradient G comes from the labels. Γ comes from labels that are drawn
from the model's own predictions, by the definition of the Fisher information: gradients of the data's labels would
measure the size of the errors, not the curvature of the loss.

A token counts in Σ if the loss depends on it, that is, if its gradient in a layer is not exactly zero. So padding does
not count, nor do the tokens other than the one that a classifier reads in its last layer, and no mask is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lopsided.errors import LopsidedError
from lopsided.finite import all_finite
from lopsided.models.mode_contexts import gradients_of, model_mode
from lopsided.theory.sides import Moments


@dataclass(eq=False)
class _Sums:
    """The sums of one layer over the batches so far."""

    sigma: Tensor | None = None
    gamma: Tensor | None = None
    tokens: int = 0
    gradients: dict[int, Tensor] = field(default_factory=dict)


class _Collector:
    """Hooks on layers that add up x·xᵀ, g·gᵀ and g·xᵀ in the backward passes."""

    def __init__(self) -> None:
        self.sums: dict[str, _Sums] = {}
        self.collecting: Literal["nothing", "gradient", "curvature"] = "nothing"
        self.batch = 0
        # Adding it makes a gradient flow through layers whose weights are frozen.
        self.anchor = torch.zeros((), requires_grad=True)

    def watch(self, name: str, module: nn.Module) -> RemovableHandle:
        """Hook a layer; its sums begin with the next forward pass."""

        def on_forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # Not in place: a model may write into its own activations.
            output_with_gradient = output + self.anchor.to(output.device, output.dtype)
            x = inputs[0].detach()
            output_with_gradient.register_hook(lambda gradient: self._add(name, x, gradient))
            return output_with_gradient

        return module.register_forward_hook(on_forward)

    def _add(self, name: str, x: Tensor, gradient: Tensor) -> None:
        if self.collecting == "nothing":
            return
        x, g = x.flatten(0, -2).float(), gradient.detach().flatten(0, -2).float()
        sums = self.sums.setdefault(name, _Sums())
        if self.collecting == "gradient":
            sums.gradients[self.batch] = sums.gradients.get(self.batch, 0) + g.T @ x
            return
        counts = g.ne(0).any(1)
        x, g = x[counts], g[counts]
        sums.sigma = x.T @ x if sums.sigma is None else sums.sigma + x.T @ x
        sums.gamma = g.T @ g if sums.gamma is None else sums.gamma + g.T @ g
        sums.tokens += len(x)


@dataclass(frozen=True, kw_only=True)
class ModelMoments:
    """The moments of a model's layers.

    Args:
        by_layer: of the layers that the loss depends on.
        predictions: the number of predictions that they come from.
        tokens: the number of inputs of each layer.
    """

    by_layer: dict[str, Moments]
    predictions: int
    tokens: Mapping[str, int]


def collect(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    layers: Sequence[tuple[str, nn.Module]],
    *,
    seed: int = 0,
) -> ModelMoments:
    """Compute the moments of the layers that the loss depends on.

    The model runs in eval mode; its mode, weights, gradients and requires_grad flags are left as they were. A batch
    costs a forward and two backward passes without weight gradients. The memory holds one gradient of every layer's
    weight per batch.

    Args:
        model: a transformers model whose loss is the mean cross-entropy of its logits, over rows or over labelled
            tokens, or their mean squared error.
        batches: keyword arguments of its forward, with labels.
        layers: linear layers of the model, by name.
        seed: of the labels that are drawn.

    Raises:
        LopsidedError: for fewer than two batches, one without labels, a loss of another kind or
            one that is not finite.
    """
    if len(batches) < 2:
        raise LopsidedError(f"expected at least 2 batches, got {len(batches)}; pass more batches")
    for number, batch in enumerate(batches):
        if "labels" not in batch:
            raise LopsidedError(
                f"expected labels in every batch, got {', '.join(batch) or 'nothing'} in batch {number}; pass a task's "
                "rows with their labels"
            )
    collector, generator, counts = _Collector(), torch.Generator().manual_seed(seed), []
    with model_mode(model, training=False), gradients_of(model, []):
        hooks = [collector.watch(name, module) for name, module in layers]
        try:
            for number, batch in enumerate(batches):
                collector.batch = number
                counts.append(_both_passes(model, batch, collector, generator))
        finally:
            for hook in hooks:
                hook.remove()
    by_layer = {
        name: _moments(collector.sums[name], counts)
        for name, _ in layers
        if name in collector.sums and collector.sums[name].tokens > 0
    }
    tokens = {name: collector.sums[name].tokens for name in by_layer}
    return ModelMoments(by_layer=by_layer, predictions=sum(counts), tokens=tokens)


def _both_passes(
    model: nn.Module, batch: Mapping[str, Tensor], collector: _Collector, generator: torch.Generator
) -> int:
    """Add a batch to the sums: one forward pass, one backward pass for G and one for Γ; returns its predictions."""
    outputs = model(**batch)
    if "logits" not in outputs or outputs["logits"] is None:
        raise LopsidedError(
            f"expected a model with logits and a loss, got outputs {', '.join(outputs)}; pass a model for "
            "classification, regression or generation"
        )
    logits, labels = outputs["logits"], batch["labels"]
    # Later on, a NaN would become a layer's gain, or end in an error about matrices.
    if bool(torch.isnan(logits).any()) or not all_finite(outputs["loss"]):
        raise LopsidedError(
            f"expected finite logits and a finite loss, got a loss of {float(outputs['loss'])}; start from a model "
            "whose loss is finite"
        )
    (slope,) = torch.autograd.grad(outputs["loss"], logits, retain_graph=True)
    count, drawn = _predictions(logits.detach(), slope, labels, generator)
    # Gradients of the sum of the predictions' losses, so that batches add up.
    collector.collecting = "gradient"
    logits.backward(slope * count, retain_graph=True)
    collector.collecting = "curvature"
    logits.backward(drawn)
    collector.collecting = "nothing"
    return count


def _predictions(logits: Tensor, slope: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[int, Tensor]:
    """The number of predictions that the loss is the mean of, and their gradients by the logits for drawn labels.

    A drawn gradient v has E[v·vᵀ] = the loss's second derivative by the logits.

    Args:
        slope: the gradient of the mean loss by the logits, which is not zero exactly where a prediction counts.
    """
    if labels.is_floating_point():
        return _squared_errors(logits, slope, labels, generator)
    return _cross_entropies(logits, slope, generator)


def _squared_errors(logits: Tensor, slope: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[int, Tensor]:
    """`_predictions` of a regression, whose loss must be the mean squared error."""
    count = logits.numel()
    error = 2 * (logits.float().reshape(-1) - labels.float().reshape(-1)) if labels.numel() == count else None
    if error is None or not torch.allclose(slope.float().reshape(-1) * count, error, rtol=1e-3, atol=1e-4):
        raise LopsidedError(
            f"the labels are numbers, and the loss is not the mean squared error of logits of shape "
            f"{tuple(logits.shape)}; expected regression; pass another model"
        )
    noise = torch.randn(count, generator=generator).to(logits).reshape(logits.shape)
    return count, noise * 2**0.5


def _cross_entropies(logits: Tensor, slope: Tensor, generator: torch.Generator) -> tuple[int, Tensor]:
    """`_predictions` of classes or tokens, whose loss must be the mean cross-entropy of some of the logits' rows."""
    rows = slope.flatten(0, -2).ne(0).any(1)
    shares, slopes = logits.flatten(0, -2)[rows].float().softmax(1), slope.flatten(0, -2)[rows].float()
    # The slope of a mean of n cross-entropies is (p - e)/n, which is negative at the label alone. A prediction with
    # p = e has no slope, so that n follows from the others.
    label = slopes.argmin(1) if len(slopes) else torch.zeros(0, dtype=torch.long)
    one_hot = F.one_hot(label, logits.shape[-1]).to(shares)
    ratios = ((1 - shares) * one_hot).sum(1) / -(slopes * one_hot).sum(1)
    count = round(float(ratios.median())) if len(ratios) else 0
    possible = 1 <= len(shares) <= count <= rows.numel()
    if not possible or not torch.allclose(shares - slopes * count, one_hot, atol=1e-2):
        raise LopsidedError(
            f"the loss is not the mean cross-entropy of logits of shape {tuple(logits.shape)}; expected one class or "
            "token per prediction, without weights or smoothing; pass another model"
        )
    drawn_label = torch.multinomial(shares.cpu(), 1, generator=generator)[:, 0].to(shares.device)
    gradients = torch.zeros_like(logits).flatten(0, -2)
    gradients[rows] = (shares - F.one_hot(drawn_label, shares.shape[1])).to(gradients)
    return count, gradients.reshape(logits.shape)


def _moments(sums: _Sums, counts: Sequence[int]) -> Moments:
    """A layer's sums over the numbers of tokens and predictions that they are means of."""
    assert sums.sigma is not None
    assert sums.gamma is not None
    n = sum(counts)
    zero = torch.zeros(len(sums.gamma), len(sums.sigma), device=sums.sigma.device)
    gradients = [sums.gradients.get(batch, zero).cpu().numpy() / count for batch, count in enumerate(counts)]
    return Moments(
        sigma=sums.sigma.double().cpu().numpy() / sums.tokens,
        gamma=sums.gamma.double().cpu().numpy() / n,
        gradients=np.stack(gradients),
        weights=np.array(counts, dtype=np.float64),
    )
