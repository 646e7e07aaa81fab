"""Which way a layer computes an adapter's term.

    patched   the base weight holds the selected columns or rows plus s·B or s·A during one product
    gather    an r-wide gather or scatter next to the layer's product
    dense     two r-wide products next to it

All three give one result. "patched" lends columns to the base weight, so it is for training alone, where no other
thread may read the weight without the lock; and for float32 weights alone, since 16 bits would round an update away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from lopsided.tuner.forward.compute import Selected
from lopsided.tuner.forward.fused import is_bare

if TYPE_CHECKING:
    from lopsided.tuner.layer import LopsidedLinear


def fuses(layer: LopsidedLinear, name: str) -> bool:
    """Return whether the layer's product and the adapter's can be one operation."""
    drops = layer.training and isinstance(layer.lopsided_dropout[name], nn.Dropout)
    same = layer.base_layer.weight.dtype == torch.float32 or not layer.adapters[name].float32
    return same and is_bare(layer.base_layer) and not drops


def lends(layer: LopsidedLinear, name: str) -> bool:
    """Return whether the base weight can hold an adapter's columns or rows during a product, and gains by it.

    Windows are lent. Random columns, which lie one entry per cache line, are not: lending them costs more than the
    products next to the layer's own.
    """
    sketch, side = layer.frozen[name].sketch, layer.frozen[name].side
    together = isinstance(sketch, Selected) and side.lies_together(neighbours=sketch.start is not None)
    wide = layer.base_layer.weight.dtype == torch.float32 and not layer.frozen[name].stacked
    return together and wide and len(layer.active_adapters) == 1 and layer.base_weight.is_lendable()


def may_lend(layer: LopsidedLinear) -> bool:
    """Return whether a thread that trains this layer lends columns to the base weight."""
    names = [name for name in layer.active_adapters if name in layer.frozen] if layer.training else []
    return any(lends(layer, name) and fuses(layer, name) for name in names)
