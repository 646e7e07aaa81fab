"""The forward of a batch in which every row has its adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lopsided.errors import LopsidedError

if TYPE_CHECKING:
    from lopsided.tuner.layer import LopsidedLinear


def forward_rows(layer: LopsidedLinear, x: Tensor, adapter_names: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
    """Compute W0·x plus, for each row, the s·B·A·x of its adapter; a name that the layer lacks adds nothing.

    Args:
        adapter_names: one adapter per row of x.

    Shapes:
        x: (n, ..., d_in) -> (n, ..., d_out).

    Raises:
        LopsidedError: for another number of names than rows, or if adapters are merged.
    """
    if len(adapter_names) != len(x):
        raise LopsidedError(
            f"adapter_names must name one adapter per row: got {len(adapter_names)} names for {len(x)} rows"
        )
    if layer.merged_adapters:
        raise LopsidedError(f"adapters {layer.merged_adapters} are merged; unmerge them before mixing adapters")
    out = layer.base_layer(x, *args, **kwargs)
    for name in dict.fromkeys(adapter_names):
        if name in layer.adapters:
            rows = torch.tensor([i for i, other in enumerate(adapter_names) if other == name], device=x.device)
            out = out.index_copy(0, rows, layer.add_adapter_terms(out[rows], x[rows], name))
    return out


@contextmanager
def unmerged_links(layer: LopsidedLinear) -> Iterator[None]:
    """Inside the context the base weight is W0, and every adapter's past links are computed next to it."""
    base = layer.base_weight
    names = [name for name, adapter in layer.adapters.items() if adapter.link and base.takes_links(adapter)]
    if not names:
        yield
        return
    _set_mixing(layer, True, names)
    try:
        yield
    finally:
        _set_mixing(layer, False, names)


def _set_mixing(layer: LopsidedLinear, mixing: bool, names: Sequence[str]) -> None:
    layer.base_weight.mixing = mixing
    for name in names:
        layer.place(name)
    layer.settle()
