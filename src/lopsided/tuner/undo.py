"""Writing into a base weight, and the way back.

What is added to a weight in floating point can't be subtracted again exactly, so the original is kept, on the
CPU, from the first write until the last term is gone; every write starts from it and rounds once.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from lopsided.errors import LopsidedError, LopsidedWarning


class Undo:
    """The original of one weight, while something is written over it."""

    def __init__(self) -> None:
        self.original: Tensor | None = None

    def write(self, weight: Tensor, delta: Tensor) -> None:
        """weight := original + delta, in float32 or wider, rounded once to the weight's dtype.

        Shapes:
            weight, delta: equal.
        """
        if not weight.is_floating_point():
            raise LopsidedError(
                f"can't merge into a weight of dtype {weight.dtype}; expected a floating-point weight; "
                "leave the adapter unmerged, or export it with to_lora"
            )
        if self.original is None:
            self.original = weight.detach().to("cpu", copy=True)
        wide = torch.promote_types(weight.dtype, torch.float32)
        merged = self.original.to(weight.device, wide) + delta.to(weight.device, wide)
        # Through .data: a forward that ran before, and its backward still to come, see the same values again
        # once the caller has switched back, and autograd's version counter must not refuse them.
        weight.data.copy_(merged)

    def restore(self, weight: Tensor) -> None:
        """Give the original back, bit for bit, and forget it."""
        if self.original is not None:
            weight.data.copy_(self.original)
            self.original = None


def report_rounding(module: str, original: Tensor, weight: Tensor, delta: Tensor) -> None:
    """Warn of what rounding to a 16-bit base took from the merged links."""
    kept = weight.float() - original.to(weight.device).float()
    lost = float((kept - delta).norm() / delta.norm().clamp(min=torch.finfo(torch.float32).tiny))
    warnings.warn(
        f"{module}: rounding to {weight.dtype} lost {100 * lost:.1f} % of the merged links, as a share of their "
        "norm; leave merge_links unset to keep them in float32 beside the weight",
        LopsidedWarning,
        stacklevel=3,
    )
