"""Saved tensors on their way into a layer: what loaders hand in, until the layer computes with it.

A loader goes through a `state_dict` or sets tensors one by one, and no call says that it is done. So what comes is kept
as an adapter's `arrivals`, and taken over as a whole after a load or before the layer next computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.tuner.adapter import Adapter
from lopsided.tuner.forward.ways import may_lend
from lopsided.tuner.packing import check_complete, unpack
from lopsided.tuner.state_modules import ADAPTER_ONLY, STATE, translate_schema_1
from lopsided.tuner.weight.sharded import gathered

if TYPE_CHECKING:
    from lopsided.tuner.layer import LopsidedLinear


def take_over(layer: LopsidedLinear, name: str) -> None:
    """Apply the tensors that arrived for an adapter: its sketches, its past links, and the base weight under them.

    Raises:
        LopsidedError: if adapters are merged, if a tensor is missing, or what `unpack` raises. The adapter has not
            changed then.
    """
    check_unmerged(layer, name)
    adapter = layer.adapters[name]
    tensors = dict(adapter.arrivals)
    known, successor = adapter.expected or ({}, adapter)
    adapter.expected = None
    # By identity: a loader that has changed a tensor on its way has made another one of it.
    if not all(tensor is known.get(what) for what, tensor in tensors.items()):
        check_complete(adapter, tensors)
        successor = unpack(adapter, tensors, layer.base_weight.for_sketches(layer.adapters))
    adapter.arrivals.clear()
    adapter.become(successor)
    layer.place(name)
    layer.settle()


def check_unmerged(layer: LopsidedLinear, name: str) -> None:
    """Raise if merged adapters forbid a load.

    Raises:
        LopsidedError: naming them.
    """
    if layer.merged_adapters:
        raise LopsidedError(
            f"{layer.adapters[name].module}: adapters {layer.merged_adapters} are merged; expected an unmerged layer "
            "to load into; call unmerge_adapter first"
        )


def check_loaded(layer: LopsidedLinear, name: str, trained: Mapping[str, Tensor] | None = None) -> None:
    """Take over what has arrived for an adapter, and raise if it can't compute.

    Args:
        trained: the adapter's factors by letter, where the caller has them.

    Raises:
        LopsidedError: if factors are not in memory, or if a saved adapter's tensors never came.
    """
    adapter = layer.adapters[name]
    trained = layer.trained(name) if trained is None else trained
    # torch multiplies by a tensor without data and returns whatever was in memory.
    if any(factor.is_meta for factor in trained.values()):
        raise LopsidedError(
            f"{adapter.module}: adapter {name!r} is on the meta device or offloaded; expected factors in memory; "
            "load them, or take the offloading off"
        )
    if adapter.arrivals:
        take_over(layer, name)
    # By the sketch and not by the links: compiled code would be compiled again for each number of them.
    if adapter.awaits or name not in layer.frozen:
        _check_new(adapter, name, trained)


def loaded_factors(layer: LopsidedLinear, name: str) -> dict[str, Tensor]:
    """Return an adapter's factors by letter; raises what `check_loaded` raises."""
    check_loaded(layer, name)
    return layer.trained(name)


def _check_new(adapter: Adapter, name: str, trained: Mapping[str, Tensor]) -> None:
    """Raise unless an adapter whose saved tensors never came is a new one, as from a configuration used again.

    A trained factor without them would be multiplied by a sketch that was drawn for this model's names, which are
    not always those of the model that it was trained on.
    """
    if adapter.uncalibrated and not adapter.awaits:
        raise LopsidedError(
            f"{adapter.module}: adapter {name!r} of {adapter.method.name!r} is drawn from the layer's inputs, and "
            "has seen none; expected lopsided.calibrate(model, batches) first, once after adapting; call it with a few "
            "hundred training rows"
        )
    factor = trained.get("B", next(iter(trained.values())))
    if adapter.pending or not adapter.can_be_new or bool(gathered(factor).any()):
        raise LopsidedError(
            f"{adapter.module}: adapter {name!r} was created from a saved configuration, but its "
            f"tensors were not loaded, those of {STATE} at least; load it with peft.PeftModel.from_pretrained or "
            "PeftModel.load_adapter"
        )
    adapter.awaits = False


# -- around `load_state_dict` and `state_dict` ------------------------------------------------------------------------


def before_load(layer: LopsidedLinear, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Get a layer ready for a load: its base weight takes W0, or what version 0.1.0 saved of it."""
    base = f"{prefix}base_layer.weight"
    if translate_schema_1(state_dict, prefix, layer.adapters):
        # The state's base weight holds the links. It takes the place of those that are written here first.
        for name in waiting(layer):
            take_over(layer, name)
    elif base in state_dict:
        # What comes is W0; `after_load` writes the links over it again.
        for name in layer.adapters:
            check_unmerged(layer, name)
        layer.base_weight.expect_load(state_dict[base].shape)


def after_load(layer: LopsidedLinear, incompatible: Any) -> None:
    """Take over what came, and write over W0 what belongs there: a hook of `load_state_dict`."""
    for name in waiting(layer):
        take_over(layer, name)
    layer.settle()


def waiting(layer: LopsidedLinear) -> list[str]:
    """Return the names of the adapters for which something has arrived."""
    return [name for name, adapter in layer.adapters.items() if adapter.arrivals]


def put_original(layer: LopsidedLinear, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Put W0 in the place of what the base weight holds: a hook of `state_dict`, which has the links by themselves."""
    key = f"{prefix}base_layer.weight"
    if key in state_dict and not ADAPTER_ONLY.get():
        state_dict[key] = original_weight(layer, state_dict[key])


def original_weight(layer: LopsidedLinear, live: Tensor) -> Tensor:
    """Return W0 as the base layer has it: `live` itself, or a copy where adapters write to it.

    Args:
        live: the base layer's weight.
    """
    return layer.base_weight.original_as_stored(live, lent=may_lend(layer))
