"""A model's mean loss over batches, and its gradient.

Notation: batch i has the mean loss ℓ_i over n_i predictions; the loss is Σ n_i·ℓ_i / Σ n_i, so the sizes of the
batches do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.tasks.encoders import IGNORED

Batch = Mapping[str, Any]
Loss = Callable[[Any, Batch], Tensor]


def model_loss(model: Any, batch: Batch) -> Tensor:
    """Return the loss that a transformers model computes from a batch with labels."""
    return model(**batch).loss


def predictions_in(batch: Batch) -> int:
    """Return n_i: rows, or tokens that count where every token has a label.

    Example:
        >>> predictions_in({"labels": torch.tensor([0, 1, 1])})
        3
        >>> predictions_in({"labels": torch.tensor([[-100, 5], [7, 8]])})
        3
    """
    labels = batch["labels"]
    return int((labels != IGNORED).sum()) if labels.dim() == 2 else len(labels)


def check_batches(batches: Sequence[Batch]) -> None:
    """Raise unless there is something to compute a loss from."""
    if not batches or not all("labels" in batch for batch in batches):
        got = "none" if not batches else "batches without labels"
        raise LopsidedError(f"expected at least one batch with labels, got {got}; pass a task's rows as batches")
    if sum(predictions_in(batch) for batch in batches) == 0:
        raise LopsidedError("expected labels that count, got -100 in all of them; pass other rows")


@torch.no_grad()
def mean_loss(model: Any, batches: Sequence[Batch], loss: Loss = model_loss) -> float:
    """Compute Σ n_i·ℓ_i / Σ n_i, without gradients; the model is used in the mode that it is in."""
    counts = [predictions_in(batch) for batch in batches]
    total = sum(count * loss(model, batch).item() for count, batch in zip(counts, batches) if count)
    return total / sum(counts)


def loss_and_gradient(
    model: Any, parameters: Sequence[Tensor], batches: Sequence[Batch], loss: Loss = model_loss
) -> tuple[float, list[Tensor]]:
    """Compute the mean loss and its gradient; a parameter that the loss does not read has gradient zero.

    Shapes:
        one gradient per parameter, of its shape.
    """
    counts = [predictions_in(batch) for batch in batches]
    total, value = [torch.zeros_like(parameter) for parameter in parameters], 0.0
    for count, batch in zip(counts, batches):
        if count:
            own, share = loss(model, batch), count / sum(counts)
            value += share * own.item()
            for target, part in zip(total, torch.autograd.grad(own, parameters, allow_unused=True)):
                if part is not None:
                    target.add_(part, alpha=share)
    return value, total
