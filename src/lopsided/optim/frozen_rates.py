"""Learning rates that stay where they are, whatever a schedule says: a chain's `freeze_rate`.

A schedule writes each group's rate between two steps, and there are many kinds of schedule. So the frozen rate is an
entry of the group next to the schedule's own, and takes its place right before each step. It is saved and loaded with
the optimizer's state, and comes back bit for bit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

# The entry of a parameter group.
FROZEN = "lopsided_frozen_lr"


def freeze_rates(optimizer: Optimizer) -> None:
    """Keep the learning rates of all groups as they are now, for good; rates that are frozen already stay.

    Args:
        optimizer: a torch optimizer, or accelerate's wrapper of one.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        >>> freeze_rates(optimizer)
        >>> optimizer.param_groups[0]["lr"] = 0.1
        >>> optimizer.step()
        >>> optimizer.param_groups[0]["lr"]
        0.5
    """
    for group in optimizer.param_groups:
        rate = group["lr"]
        group.setdefault(FROZEN, rate.clone() if isinstance(rate, Tensor) else rate)


def has_frozen_rates(optimizer: Optimizer) -> bool:
    """Return whether the optimizer's rates are frozen."""
    return any(FROZEN in group for group in optimizer.param_groups)


def put_frozen_rates(optimizer: Optimizer) -> None:
    """Put frozen learning rates into their groups: called before every step of every optimizer."""
    for group in optimizer.param_groups:
        if FROZEN in group:
            put_rate(group, group[FROZEN])


def put_rate(group: dict[str, Any], rate: Any) -> None:
    """Give a group a learning rate; one that is a tensor keeps its identity, which compiled steps hold on to."""
    if isinstance(group["lr"], Tensor):
        group["lr"].copy_(rate)
    else:
        group["lr"] = rate
