"""Factors that FSDP2 keeps in shards, one per process: DTensors of torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(factor: Tensor) -> Tensor:
    """Return the factor in one piece; where it is sharded, every process must ask at the same moment."""
    return factor.full_tensor() if isinstance(factor, DTensor) else factor


@torch.no_grad()
def overwrite(factor: Tensor, value: Tensor) -> None:
    """Set factor := value in place, where every process has the same value, whole.

    Shapes:
        factor, value: equal.
    """
    if isinstance(factor, DTensor):
        value = distribute_tensor(value.to(factor.device), factor.device_mesh, factor.placements, src_data_rank=None)
    factor.copy_(value)
