"""Which way a layer computes an adapter's term.

    patched   the base weight holds the selected columns or rows plus s·B or s·A during one product
    gather    an r-wide gather or scatter next to the layer's product
    dense     two r-wide products next to it

All three give one result. "patched" lends columns to the base weight, so it is for training alone, where no other
thread may read the weight without the lock; and for float32 weights alone, since 16 bits would round an update away.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lopsided.tuner.forward.beside import beside
from lopsided.tuner.forward.compute import Selected, Term
from lopsided.tuner.forward.fused import is_bare
from lopsided.tuner.forward.patched import patched
from lopsided.tuner.weight.holder import SameWeight

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


def compute_fused(layer: LopsidedLinear, x: Tensor, name: str, term: Term, dtype: torch.dtype) -> Tensor:
    """Compute the layer's product and an adapter's in one operation.

    Args:
        term: of the link in training, its frozen factor in `dtype`.
        dtype: what autocast, or the weight and x, have the product computed in.
    """
    weight, bias = layer.kind.matrix(layer.base_layer.weight), layer.base_layer.bias
    scaling, lock = layer.scaling[name], layer.base_weight.lock
    guard = SameWeight(layer.base_weight, layer.adapters)
    # Nothing is lent outside training, where other threads may read the weight.
    is_lent = layer.training and lends(layer, name)
    as_is = x.dtype == dtype == weight.dtype
    if is_lent and as_is and torch.is_grad_enabled():
        return patched(x, weight, bias, term, scaling, lock, guard=guard)
    past = layer.frozen[name].at(dtype).stacked
    # Another thread's training step may be lending just now.
    with lock.mutex if is_lent else nullcontext():
        if as_is:
            return beside(x, weight, bias, term, scaling, past=past, guard=guard)
        # What autocast does to the inputs of a product, and to nothing in it.
        bias = None if bias is None else bias.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            return beside(x.to(dtype), weight.to(dtype), bias, term, scaling, past=past, guard=guard)
