"""What happened in each link of a run: its steps, losses and rates, and what it added to the weights.

Notation: Δ_t the update of link t, a product of factors of shapes (d_out, r) and (r, d_in). A run without a chain has
one link.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]


def timeline(record: Mapping[str, Any], links: Sequence[Sequence[Factors]]) -> dict[str, Any]:
    """Steps, losses, learning rates, norm, rank and covered columns of every link.

    The checkpoint with the lowest validation loss may lie in an early link; the later ones then left nothing in the
    adapter, and their norm, rank and columns are None.

    Args:
        record: a finished run's `run.json`.
        links: for each layer, the factors of its links with the scale in, oldest first.

    Units:
        Losses in nats a row (squared units for regression); steps count optimizer steps.

    Returns:
        "steps" and "links"; in each link "columns_covered" is the share of the input columns that this link or an
        earlier one can write to, the mean over layers.
    """
    steps = record["steps"]
    boundaries = [] if record["chain"] is None else record["chain"]["boundaries"]
    found, covered = [], [torch.zeros(factors[0][1].shape[1], dtype=torch.bool) for factors in links if factors]
    for link, (first, last) in enumerate(pairwise([0, *boundaries, steps])):
        updates = [factors[link] for factors in links if link < len(factors)]
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


def _added(updates: Sequence[Factors], covered: list[Tensor]) -> dict[str, Any]:
    """‖Δ_t‖_F over all layers, the largest rank, and the share of columns; `covered` gains this link's columns."""
    if not updates:
        return {"norm": None, "rank": None, "columns_covered": None}
    for seen, (_, right) in zip(covered, updates, strict=True):
        seen |= (right != 0).any(dim=0)
    return {
        "norm": math.sqrt(sum(float(squared_norm(left, right)) for left, right in updates)),
        "rank": max(left.shape[1] for left, _ in updates),
        "columns_covered": sum(float(seen.float().mean()) for seen in covered) / len(covered),
    }


def squared_norm(left: Tensor, right: Tensor) -> Tensor:
    """‖L·R‖_F² = Tr[(LᵀL)(RRᵀ)], without writing L·R out: (d_out, r), (r, d_in) -> ()"""
    left, right = left.double(), right.double()
    return ((left.T @ left) * (right @ right.T)).sum()
