"""`exact_merge` and `make_merges_exact`: merged for a while, and then the original weights, bit for bit.

PEFT merges by W ← W + ΔW and unmerges by W ← W - ΔW, each rounded to the weight's dtype. Subtraction does not undo a
rounding, so the weights move with every cycle; in bfloat16 the worst of them is off by two thirds of the weights' mean
size after a thousand (trl#6688). Here the rounding is undone by what `lopsided.tuner.weight.undo` keeps of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, onload_layer
from torch import nn

from lopsided.errors import LopsidedError, unknown
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.merging.exact_layers import ExactMerges
from lopsided.tuner.merging.exact_tuner import (
    check_layers,
    check_stock_layers,
    make_layers_exact,
    make_layers_stock,
    tuner_layers,
    way_back,
)
from lopsided.tuner.merging.stock_layers import merged_names


@contextmanager
def exact_merge(peft_model: nn.Module, adapter_names: Sequence[str] | None = None) -> Iterator[nn.Module]:
    """Merge adapters inside the context, and give every base weight its original bits back at its end.

    Inside, a base weight is round(W0 + ΔW), rounded once from W0 however many adapters there are. The end of the
    context brings back what was there at its beginning, after an exception or Ctrl-C inside as well, and whatever was
    merged or unmerged in between. Contexts may be nested and repeated.

    Args:
        peft_model: any model with stock LoRA adapters, or with Lopsided ones: a `PeftModel`, or a module that PEFT's
            layers were injected into. Adapters of other methods are refused.
        adapter_names: which to merge next to what is merged already; the active ones by default.

    Yields:
        The model.

    Raises:
        LopsidedError: before anything is changed, for a layer whose merge is not exact (quantized, MultiheadAttention,
            variants of LoRA such as aLoRA), with its name and the reason, for an unknown adapter, and for weights that
            are not whole. At the end, if somebody else has changed a base weight inside the context: its original
            cannot be given back; all others have theirs.

    Example:
        >>> import torch, lopsided
        >>> from peft import LoraConfig, get_peft_model
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4)).bfloat16()
        >>> config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
        >>> model, before = get_peft_model(net, config), net[0].weight.clone()
        >>> with lopsided.exact_merge(model):
        ...     torch.equal(net[0].weight, before)
        False
        >>> torch.equal(net[0].weight, before)
        True
    """
    names = _checked_names(peft_model, adapter_names)
    check_stock_layers(peft_model, names)
    with ExitStack() as ending:
        ending.callback(make_layers_stock, peft_model)
        make_layers_exact(peft_model)
        # The parameters are known now, and nothing is written yet.
        check_layers(peft_model, names)
        for layer in tuner_layers(peft_model).values():
            ending.callback(way_back(layer))
        _merge(peft_model, names)
        yield peft_model


def make_merges_exact(peft_model: nn.Module) -> None:
    """Make this model's own merges exact: `merge_adapter`, `unmerge_adapter`, and those of its layers.

    Whoever calls them then, as TRL does before each generation, leaves the base weights as they were, to the bit.
    `merge_and_unload` rounds once, and `unload` gives the base model as it was. Layers of adapters that are added later
    merge exactly, too. A call of `merge_adapter` merges into all layers or, if it is refused or interrupted, into none.

    The model's LoRA layers become instances of subclasses of their classes. Copies and pickles of the model keep this,
    merged or not; loading a pickle needs lopsided. Saved adapters are PEFT's as before. A second call changes nothing.
    The merges of Lopsided adapters are exact anyway.

    Args:
        peft_model: as for `exact_merge`.

    Raises:
        LopsidedError: before anything is changed, for what `exact_merge` refuses, in any adapter. Later, from
            `unmerge_adapter`, if somebody else has changed a base weight while adapters were merged into it.

    Example:
        >>> import torch, lopsided
        >>> from peft import LoraConfig, get_peft_model
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4)).bfloat16()
        >>> config = LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
        >>> model, before = get_peft_model(net, config), net[0].weight.clone()
        >>> lopsided.make_merges_exact(model)
        >>> for _ in range(100):
        ...     model.merge_adapter()
        ...     model.unmerge_adapter()
        >>> torch.equal(net[0].weight, before)
        True
    """
    _checked_names(peft_model, None)
    check_stock_layers(peft_model, None, every_adapter=True)
    with ExitStack() as back:
        back.callback(make_layers_stock, peft_model)
        make_layers_exact(peft_model)
        check_layers(peft_model, None, every_adapter=True)
        make_layers_exact(peft_model, stays=True)
        back.pop_all()


def _checked_names(model: nn.Module, names: Sequence[str] | None) -> list[str] | None:
    layers = tuner_layers(model)
    if not layers:
        raise LopsidedError(
            f"{type(model).__name__} holds no adapters; expected a model with LoRA or Lopsided layers; adapt it first"
        )
    if names is None:
        return None
    if isinstance(names, str):
        raise LopsidedError(f"expected a list of adapter names, got {names!r}; pass [{names!r}]")
    known = sorted({name for layer in layers.values() for name in layer._all_available_adapter_names()})
    for name in names:
        if name not in known:
            raise LopsidedError(unknown("adapter", name, known))
    return list(names)


def _merge(model: nn.Module, names: list[str] | None) -> None:
    for tuner in model.modules():
        if isinstance(tuner, BaseTuner):
            tuner._check_merge_allowed()
    for layer in tuner_layers(model).values():
        with onload_layer(layer):
            _merge_layer(layer, names)


def _merge_layer(layer: Any, names: list[str] | None) -> None:
    # PEFT's own merge warns of what is merged already, which is what nested contexts are for.
    requested = layer.active_adapters if names is None else names
    new = [name for name in dict.fromkeys(requested) if name not in layer.merged_adapters]
    if isinstance(layer, ExactMerges):
        if stock := merged_names(layer, new):
            layer.merge_quietly(stock)
    elif isinstance(layer, LopsidedLinear):
        if own := [name for name in new if name in layer.adapters]:
            layer.check_can_merge(own, safe_merge=False)
            layer.merged_adapters.extend(own)
            layer.settle()
    elif tokens := [name for name in new if name in layer.token_indices]:
        layer.merge(adapter_names=tokens)
