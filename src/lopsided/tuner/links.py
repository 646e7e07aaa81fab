"""The end of a link and the start of the next one, in one layer.

Notation: link t adds s·B_t·A_t. At an advance ΔW = s·Σ B_t·A_t of the links so far joins the base weight W0, or is
computed next to it, and the trained factor starts again at zero with the sketch of link t + 1. A chain's `merge` and
`redraw` say which of this happens.

In two steps, so that a model's layers change together or not at all: `draw_next` makes every check and changes nothing,
and `begin_next` can't fail for a reason that `draw_next` could have seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from lopsided.errors import LopsidedError
from lopsided.tuner.adapter import CPU, LinkSketch
from lopsided.tuner.arrivals import check_loaded
from lopsided.tuner.weight.finite_update import check_factors
from lopsided.tuner.weight.sharded import overwrite

if TYPE_CHECKING:
    from lopsided.tuner.layer import LopsidedLinear


def draw_next(layer: LopsidedLinear, name: str) -> LinkSketch:
    """Return the sketch of an adapter's next link, and change nothing.

    Raises:
        LopsidedError: if the link in training can't be ended.
    """
    adapter, base = layer.adapters[name], layer.base_weight
    check_loaded(layer, name)
    if layer.merged_adapters:
        raise LopsidedError(f"{adapter.module}: adapters {layer.merged_adapters} are merged; unmerge them first")
    trained, frozen = layer.gathered(name), layer.frozen[name]
    check_factors(adapter.module, trained)
    chain = adapter.method.chain
    assert chain is not None, "only a chain advances"
    if chain.merge:
        merged = base.takes_links(adapter)
        if merged:
            fix = "leave merge_links unset"
            base.check_writable(adapter.module, "merge_links=True", fix, as_adapted=True)
        terms = [*adapter.past_terms(), adapter.term(frozen.side, trained, frozen.sketch)]
        base.check_sum(adapter.module, terms, layer.scaling[name], merged=merged)
    if not chain.redraw:
        return adapter.sketches[-1]
    return adapter.draw(adapter.link + 1, base.for_sketches(layer.adapters))


def begin_next(layer: LopsidedLinear, name: str, sketch: LinkSketch) -> None:
    """End the link in training and start the next one.

    Where the chain merges, its term joins the past ones, and the factors that started at zero start there again.

    Args:
        sketch: from `draw_next`.
    """
    adapter = layer.adapters[name]
    if adapter.past_links(adapter.link + 1):
        # Copies: the parameters themselves are about to start the next link.
        adapter.append({k: v.detach().to(CPU, torch.float32, copy=True) for k, v in layer.gathered(name).items()})
    adapter.begin(sketch)
    start_factors(layer, name, adapter.restarted())
    layer.settle()
    layer.base_weight.report_rounding(layer.use(), adapter.module)


def begin_first(layer: LopsidedLinear, name: str, sketch: LinkSketch) -> None:
    """Give a new adapter the sketch of its first link, and set its trained factors to where they start."""
    layer.adapters[name].begin(sketch)
    start_new(layer, name)


def begin_calibrated(layer: LopsidedLinear, name: str, sketch: LinkSketch) -> None:
    """Give an adapter without training the sketch of its first link, in the place of one that it may have."""
    adapter = layer.adapters[name]
    # Another list: adapters that were copied from this one keep theirs.
    adapter.sketches, adapter.uncalibrated, adapter.awaits = [], False, False
    begin_first(layer, name, sketch)
    layer.settle()


def start_new(layer: LopsidedLinear, name: str) -> None:
    """Set the trained factors of a new adapter, which are zero, to where its newest link starts."""
    adapter = layer.adapters[name]
    start_factors(layer, name, [letter for letter in adapter.letters if adapter.start_of(letter) is not None])


def start_factors(layer: LopsidedLinear, name: str, letters: Iterable[str]) -> None:
    """Set trained factors of an adapter to where its newest link starts, in place; the others stay."""
    trained = layer.trained(name)
    for letter in letters:
        start, factor = layer.adapters[name].start_of(letter), trained[letter]
        with torch.no_grad():
            factor.zero_() if start is None else overwrite(factor, start)
    layer.place(name)
