"""Processes that calibrate together: the same passes, the sums of all, and one process's sketch.

In a single process, `agreed`, `united` and `from_first` return what they are given. `added_up` and `collective_device`
need a process group: call them only where `several()` is true.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def several() -> bool:
    """Return whether this is one of several processes of a group."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def collective_device() -> torch.device:
    """Return where a collective of this process group takes its tensors from."""
    on_cuda = "nccl" in dist.get_backend()
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")


def added_up(tensor: Tensor) -> Tensor:
    """Return the sum of the processes' tensors, on the device of the collective."""
    there = tensor.to(collective_device(), copy=True)
    dist.all_reduce(there)
    return there


def agreed(value: T) -> T:
    """Return what the first process gives: plain data."""
    if not several():
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, src=0)
    first: T = values[0]
    return first


def united(names: set[str]) -> set[str]:
    """Return the names that any process gives."""
    if not several():
        return names
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, names)
    return set().union(*gathered)


def from_first(tensor: Tensor) -> Tensor:
    """Return the first process's tensor, on the CPU: equal bits everywhere."""
    if not several():
        return tensor
    there = tensor.to(collective_device(), copy=True)
    dist.broadcast(there, src=0)
    return there.cpu()
