"""How far a run's loss on rows that it did not train on lies from its training loss.

Notation: ℓ_s the loss of each row of split s at the checkpoint with the lowest validation loss, in nats a row (squared
units for regression). Intervals are the middle 95 % of a bootstrap over rows, each split drawn on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.files.strict_json import WHY
from lopsided.runs.scores import row_losses
from lopsided.stats import bootstrap_means, percentile_interval

DRAWS = 2000


def generalization(
    rows: Mapping[str, Mapping[str, np.ndarray]], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """The loss of every split, its distance from the training loss, and G(W), with bootstrap intervals.

    The gap of a split is mean(ℓ_split) - mean(ℓ_train), with its sign; G(W) = |mean(ℓ_test) - mean(ℓ_train)|. The
    interval of G folds that of the signed gap at zero, since the quantiles of an absolute value never reach it.

    Args:
        rows: by split, with "loss" a row; "train" among them. What `read_predictions` returns.
        draws: of the bootstrap.
        seed: of the draws.

    Returns:
        "splits", "gaps", "G" (None without a test split) and "draws". One row has no interval: its ends are None, and
        `why` says so.

    Raises:
        LopsidedError: if there is no training split, or a split has a loss that is not finite.

    Source:
        Cadenhead et al. 2026, arXiv:2606.13767, for G(W); Efron 1979 for the bootstrap.

    Example:
        >>> found = generalization({"train": {"loss": np.zeros(4)}, "test": {"loss": np.ones(9)}})
        >>> found["G"]
        {'value': 1.0, 'low': 1.0, 'high': 1.0}
    """
    if "train" not in rows:
        raise LopsidedError(f"expected the losses of a training split, got {', '.join(rows) or 'none'}; train anew")
    losses = {split: row_losses(columns) for split, columns in rows.items()}
    for split, found in losses.items():
        if found.size == 0:
            raise LopsidedError(
                f"expected losses of rows, got no row to predict in {split!r}; train on rows with labels"
            )
        if not np.isfinite(found).all():
            bad = int((~np.isfinite(found)).sum())
            raise LopsidedError(
                f"expected finite losses, got {bad} of {found.size} in {split!r}; train at a lower rate"
            )
    single = [split for split, found in losses.items() if found.size == 1]
    draw = np.random.RandomState(seed)
    means = {split: bootstrap_means(found, draws, draw) for split, found in losses.items()}
    splits = {
        split: {
            "loss": float(found.mean()),
            **_middle(means[split], [s for s in single if s == split]),
            "rows": int(found.size),
        }
        for split, found in losses.items()
    }
    gaps = {
        split: {
            "value": float(losses[split].mean() - losses["train"].mean()),
            **_middle(means[split] - means["train"], [s for s in single if s in (split, "train")]),
        }
        for split in losses
        if split != "train"
    }
    return {"splits": splits, "gaps": gaps, "G": folded(gaps["test"]) if "test" in gaps else None, "draws": draws}


def folded(gap: Mapping[str, Any]) -> dict[str, Any]:
    """The absolute value of a figure, and of its interval where it has one."""
    if gap["low"] is None or gap["high"] is None:
        return {**gap, "value": abs(gap["value"])}
    ends = sorted((abs(gap["low"]), abs(gap["high"])))
    low = 0.0 if gap["low"] <= 0.0 <= gap["high"] else ends[0]
    return {"value": abs(gap["value"]), "low": low, "high": ends[1]}


def _middle(draws: np.ndarray, single: list[str]) -> dict[str, Any]:
    """The middle 95 % of draws. One row drawn again and again is no sample: splits that have one leave no interval."""
    if single:
        why = f"one row has no interval ({' and '.join(single)})"
        return {"low": None, "high": None, WHY: {"low": why, "high": why}}
    low, high = percentile_interval(draws)
    return {"low": low, "high": high}
