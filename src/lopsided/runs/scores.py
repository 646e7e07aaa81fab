"""What a run came to on each split: its score, its loss and the gap, with standard errors or the reason for none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lopsided.files.strict_json import WHY
from lopsided.finite import rows_not_finite
from lopsided.stats import difference_of_means_error
from lopsided.tasks import Metric

Rows = Mapping[str, np.ndarray]


def split_figures(metric: Metric, rows: Rows) -> dict[str, Any]:
    """`score`, `se`, `loss` and `rows` of one split; what can't be computed is None, and `why` says the reason.

    Where some rows have no token to predict, `rows_with_loss` counts those that the loss is the mean of.

    Example:
        >>> from lopsided.tasks import get_metric
        >>> one = {"prediction": np.array([1]), "label": np.array([1]), "loss": np.array([0.5])}
        >>> split_figures(get_metric("accuracy"), one)
        {'score': 1.0, 'se': None, 'loss': 0.5, 'rows': 1, 'why': {'se': 'one row has no standard error'}}
    """
    scored = metric.measure(rows)
    losses = row_losses(rows)
    loss, reason = mean_loss(losses)
    why = {**scored.why, **({"loss": reason} if reason else {})}
    found: dict[str, Any] = {"score": scored.score, "se": scored.se, "loss": loss, "rows": int(rows["loss"].size)}
    if losses.size < rows["loss"].size:
        found["rows_with_loss"] = int(losses.size)
    return {**found, WHY: why} if why else found


def row_losses(rows: Rows) -> np.ndarray:
    """The losses of the rows that have one: a row without a token to predict has no mean over its tokens.

    Example:
        >>> row_losses({"loss": np.array([0.5, 0.0]), "tokens": np.array([3, 0])})
        array([0.5])
    """
    losses = np.asarray(rows["loss"], dtype=np.float64)
    return losses[np.asarray(rows["tokens"]) > 0] if "tokens" in rows else losses


def mean_loss(losses: np.ndarray) -> tuple[float | None, str]:
    """The mean of the rows' losses, or None and the reason."""
    if reason := rows_not_finite("loss", losses):
        return None, reason
    if losses.size == 0:
        return None, "there are no rows to predict"
    return float(losses.mean()), ""


def generalization_error(rows: Mapping[str, Rows]) -> dict[str, Any]:
    """G(W) = |test loss − training loss| at the checkpoint with the lowest validation loss.

    Returns:
        `value` in nats (squared units for regression), and `se`, the standard error of the difference of two means of
        independent rows. Each is None where it can't be computed, and `why` says the reason.

    Source:
        Cadenhead et al. 2026, arXiv:2606.13767; the checkpoint is inferred from the text.
    """
    losses = {split: row_losses(rows[split]) for split in ("train", "test")}
    means = {split: mean_loss(found) for split, found in losses.items()}
    for split, (_, reason) in means.items():
        if reason:
            told = f"{split}: {reason}"
            return {"value": None, "se": None, WHY: {"value": told, "se": told}}
    train, test = (float(losses[split].mean()) for split in ("train", "test"))
    found: dict[str, Any] = {"value": abs(test - train), "se": None}
    single = [split for split, values in losses.items() if values.size < 2]
    if single:
        return {**found, WHY: {"se": f"one row has no standard error ({' and '.join(single)})"}}
    return {**found, "se": difference_of_means_error(*losses.values())}
