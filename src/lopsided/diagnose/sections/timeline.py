"""What happened in each link of a run: its steps, losses and rates, and what it added to the weights.

Notation: Δ_t the update of link t (`lopsided.diagnose.tuned_model`). A run without a chain has one link.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lopsided.diagnose.tuned_model import Update
from lopsided.files.strict_json import WHY


def timeline(record: Mapping[str, Any], links: Sequence[Sequence[Update]]) -> dict[str, Any]:
    """Steps, losses, learning rates, norm, rank and covered columns of every link.

    The checkpoint with the lowest validation loss may lie in an early link; the later ones then left nothing in the
    adapter, and their norm, rank and columns are None.

    Args:
        record: a finished run's `run.json`.
        links: for each layer, the updates of its links, oldest first.

    Units:
        Losses in nats a row (squared units for regression); steps count optimizer steps.

    Returns:
        "steps" and "links"; in each link "columns_covered" is the share of the input columns that this link or an
        earlier one can write to, the mean over layers.
    """
    steps = record["steps"]
    boundaries = [] if record["chain"] is None else record["chain"]["boundaries"]
    found, covered = [], [torch.zeros(_columns(layer[0]).shape, dtype=torch.bool) for layer in links if layer]
    for link, (first, last) in enumerate(pairwise([0, *boundaries, steps])):
        updates = [layer[link] for layer in links if link < len(layer)]
        found.append(
            {"link": link, "first_step": first, "last_step": last}
            | _course(record["history"], first, last)
            | _added(updates, covered)
        )
    return {"steps": steps, "links": found}


def _course(history: Sequence[Mapping[str, Any]], first: int, last: int) -> dict[str, Any]:
    """The losses and rates that were logged in the steps after `first`, up to `last`."""
    here = [entry for entry in history if first < entry["step"] <= last]
    trained = [entry for entry in here if "loss" in entry]
    validated = [entry["eval_loss"] for entry in here if "eval_loss" in entry]
    ends = (trained[0], trained[-1]) if trained else ({}, {})
    return {
        "loss_first": ends[0].get("loss"),
        "loss_last": ends[1].get("loss"),
        "learning_rate_first": ends[0].get("learning_rate"),
        "learning_rate_last": ends[1].get("learning_rate"),
        "validation_last": validated[-1] if validated else None,
    }


def _added(updates: Sequence[Update], covered: list[Tensor]) -> dict[str, Any]:
    """‖Δ_t‖_F over all layers, the largest rank, and the share of columns; `covered` gains this link's columns."""
    if not updates:
        return {"norm": None, "rank": None, "columns_covered": None}
    for seen, update in zip(covered, updates, strict=True):
        seen |= _columns(update)
    energy = sum(update.energy() for update in updates)
    broken = {} if math.isfinite(energy) else {WHY: {"norm": "the update holds NaN or Inf"}}
    return {
        **broken,
        "norm": None if broken else math.sqrt(energy),
        "rank": max(min(update.left.shape) for update in updates),
        "columns_covered": sum(float(seen.float().mean()) for seen in covered) / len(covered),
    }


def _columns(update: Update) -> Tensor:
    """Which of the input columns an update can write to: (d_in,)"""
    reads = update.left if update.right is None else update.right
    return (reads != 0).any(dim=0)
