"""A model's layers and tuner, turned into ones that merge exactly and back, and what is checked before a merge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from peft.tuners.lora import LoraModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer, onload_layer
from torch import nn

from lopsided.errors import LopsidedError
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.merging.exact_layers import EXACT, ExactMerges, ExactState, check_adapters, refusal
from lopsided.tuner.merging.merged_weight import MergedWeight
from lopsided.tuner.merging.stock_layers import BIAS, as_column, merged_names, why_no_kind, why_not_exact
from lopsided.tuner.peft_seams import give_class

# Where a `PeftModel` has the base model.
OF_PEFT = "base_model.model."


class ExactLoraModel(LoraModel):
    """`peft.tuners.lora.LoraModel` whose merges are whole, or change nothing, and are exact."""

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters into all layers, or into none: see `ExactMerges.merge`."""
        check_layers(self.model, adapter_names)
        with ExitStack() as back:
            for layer in tuner_layers(self.model).values():
                back.callback(way_back(layer))
            super().merge_adapter(adapter_names, safe_merge)
            back.pop_all()

    def unmerge_adapter(self) -> None:
        """Take every merged adapter out of all layers.

        An error or an interrupt in one layer comes to the caller once all others are unmerged.
        """
        with ExitStack() as all_layers:
            for layer in reversed(tuner_layers(self.model).values()):
                all_layers.callback(_unmerge, layer)

    def inject_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Put another adapter on the model; layers that it brings merge exactly, too."""
        super().inject_adapter(*args, **kwargs)
        make_layers_exact(self.model)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            check_layers(self.model, adapter_names)
        else:
            # What is asked for is the base model. PEFT leaves in it what is merged.
            for layer in tuner_layers(self.model).values():
                if layer.merged:
                    _unmerge(layer)
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)


def _unmerge(layer: BaseTunerLayer) -> None:
    with onload_layer(layer):
        layer.unmerge()


# -- from stock to exact and back --------------------------------------------------------------------------------


def tuner_layers(model: nn.Module) -> dict[str, Any]:
    """Return all layers that PEFT would merge, by their name in the base model."""
    named = ((name.removeprefix(OF_PEFT), module) for name, module in model.named_modules())
    return {name: module for name, module in named if isinstance(module, BaseTunerLayer)}


def make_layers_exact(model: nn.Module, *, stays: bool | None = None) -> None:
    """Turn the model's stock layers into exact ones, and find out which parameters they have in common.

    Args:
        stays: whether they stay so after an `exact_merge`; None does as the model's other layers do.
    """
    layers = tuner_layers(model)
    if stays is None:
        stays = any(layer.exact_state.stays for layer in layers.values() if isinstance(layer, ExactMerges))
    for name, layer in layers.items():
        if type(layer) in EXACT and not why_no_kind(layer):
            give_class(layer, EXACT[type(layer)])
            layer.exact_state = ExactState(label=name)
        if isinstance(layer, ExactMerges):
            layer.exact_state.stays |= stays
    _share_weights(layers)
    for tuner in model.modules():
        if type(tuner) is LoraModel:
            give_class(tuner, ExactLoraModel)


def _share_weights(layers: Mapping[str, Any]) -> None:
    exact = {name: layer for name, layer in layers.items() if isinstance(layer, ExactMerges)}
    by_parameter = {
        id(weight.parameter): weight
        for layer in exact.values()
        for weight in layer.exact_state.weights.values()
        if weight.parameter is not None
    }
    for name, layer in exact.items():
        base, weights = layer.get_base_layer(), layer.exact_state.weights
        for parameter in layer.kind.parameters(layer):
            matrices = as_column if parameter == BIAS else layer.kind.matrices
            before, here = weights.get(parameter), base._parameters.get(parameter)
            if before is not None and before.parameter is here:
                after = before
            else:
                after = MergedWeight(base, parameter, f"{name}.{parameter}", matrices)
            # Without a parameter, as under a parametrization, there is nothing to have in common.
            if here is not None:
                after = by_parameter.setdefault(id(here), after)
            if before is not after and before is not None and before.written:
                raise LopsidedError(
                    f"the {parameter} of {name} was tied or untied while adapters were merged; expected "
                    "the same ties until they are unmerged; unmerge first"
                )
            weights[parameter] = after


def make_layers_stock(model: nn.Module) -> None:
    """Turn exact layers back into stock ones, but for those that stay, and those that hold something still."""
    layers = tuner_layers(model)
    for layer in layers.values():
        if type(layer) in EXACT.values() and not layer.exact_state.stays:
            if any(weight.written for weight in layer.exact_state.weights.values()):
                continue
            give_class(layer, layer.stock)
            del layer.exact_state
    if not any(isinstance(layer, ExactMerges) for layer in layers.values()):
        for tuner in model.modules():
            if isinstance(tuner, ExactLoraModel):
                give_class(tuner, LoraModel)


# -- what is checked before anything changes ---------------------------------------------------------------------


def check_layers(model: nn.Module, adapter_names: list[str] | None, *, every_adapter: bool = False) -> None:
    """Raise if an adapter that is asked for cannot be merged exactly into one of its layers.

    Args:
        adapter_names: the active ones by default.
        every_adapter: ask for all adapters of all layers.

    Raises:
        LopsidedError: with the layer and the reason.
    """
    parameters = _parameters_of_exact_layers(model)
    for name, layer in tuner_layers(model).items():
        if isinstance(layer, LopsidedLinear):
            # An offloaded layer is asked again once PEFT has brought it in.
            if not layer.weight.is_meta and not every_adapter:
                layer.check_can_merge(adapter_names, safe_merge=False)
        elif isinstance(layer, TrainableTokensLayer):
            if id(layer.get_base_layer().weight) in parameters:
                raise refusal(name, layer, "rows that trainable tokens replace are of a weight that LoRA adapts, too")
        elif isinstance(layer, ExactMerges):
            names = merged_names(layer, list(layer.scaling) if every_adapter else adapter_names)
            check_adapters(layer, [n for n in names if n not in layer.merged_adapters])
        else:
            _check_stock(name, layer, adapter_names, every_adapter)


def check_stock_layers(model: nn.Module, adapter_names: list[str] | None, *, every_adapter: bool = False) -> None:
    """Raise what `check_layers` raises for layers that are not exact yet: before any of them is made so."""
    for name, layer in tuner_layers(model).items():
        if not isinstance(layer, (ExactMerges, LopsidedLinear, TrainableTokensLayer)):
            _check_stock(name, layer, adapter_names, every_adapter)


def _check_stock(name: str, layer: Any, adapter_names: list[str] | None, every_adapter: bool) -> None:
    if reason := why_no_kind(layer):
        raise refusal(name, layer, reason)
    if layer.merged:
        reason = f"adapters {layer.merged_adapters} are merged by PEFT's own merge, so W0 is not known; unmerge them"
        raise refusal(name, layer, reason)
    for adapter in merged_names(layer, list(layer.scaling) if every_adapter else adapter_names):
        if reason := why_not_exact(layer, adapter):
            raise refusal(f"adapter {adapter!r} of {name}", layer, reason)


def _parameters_of_exact_layers(model: nn.Module) -> set[int]:
    layers = [layer for layer in tuner_layers(model).values() if isinstance(layer, ExactMerges)]
    return {id(parameter) for layer in layers for parameter in layer.get_base_layer()._parameters.values()}


# -- the way back to an earlier state ----------------------------------------------------------------------------


def way_back(layer: Any) -> Callable[[], None]:
    """Return what brings one layer, and the weights under it, back to what they are now."""
    merged = list(layer.merged_adapters)
    if isinstance(layer, ExactMerges):
        return layer.way_back()
    if isinstance(layer, LopsidedLinear):
        return lambda: _settle_again(layer, merged)
    return lambda: _merge_again(layer, merged)


def _settle_again(layer: LopsidedLinear, merged: list[str]) -> None:
    if layer.merged_adapters != merged or layer.base_weight.held is None:
        layer.merged_adapters[:] = merged
        with onload_layer(layer):
            try:
                layer.settle()
            except KeyboardInterrupt:
                # As `MergedWeight.hold_at_last` does.
                layer.settle()
                raise


def _merge_again(layer: BaseTunerLayer, merged: list[str]) -> None:
    if layer.merged_adapters != merged:
        with onload_layer(layer):
            if layer.merged:
                layer.unmerge()
            if merged:
                layer.merge(adapter_names=merged)
