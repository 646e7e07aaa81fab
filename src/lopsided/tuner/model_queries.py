"""Questions about a model with Lopsided adapters: which are active, where they are, and what they train."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lopsided.errors import LopsidedError
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.layer import LopsidedLinear


def layers_of(model: nn.Module, adapter: str | None = None) -> Mapping[str, LopsidedLinear]:
    """Return the model's layers with Lopsided adapters (or with the one named), by module name."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LopsidedLinear)}
    return layers if adapter is None else {k: v for k, v in layers.items() if adapter in v.adapters}


def single_active(model: nn.Module) -> str:
    """Return the name of the one active adapter of a model.

    Raises:
        LopsidedError: for a model without adapters, or several active ones.
    """
    layers = layers_of(model)
    if not layers:
        raise LopsidedError(
            f"{type(model).__name__} holds no low-rank terms: a fully fine-tuned model or a trained head has none; "
            "expected a model from lopsided.adapt"
        )
    active = list(dict.fromkeys(name for layer in layers.values() for name in layer.active_adapters))
    if len(active) != 1:
        raise LopsidedError(f"several adapters are active: {active}; expected one; pass adapter_name")
    return active[0]


def configs_of(model: nn.Module, name: str) -> list[LopsidedConfig]:
    """Return the adapter's configuration, wherever it is kept: PEFT and transformers have one dictionary of them."""
    configs_by_id = {}
    for module in model.modules():
        configs = vars(module).get("peft_config")
        if isinstance(configs, dict) and isinstance(config := configs.get(name), LopsidedConfig):
            configs_by_id[id(config)] = config
    return list(configs_by_id.values())


def layers_with(model: nn.Module, adapter: str) -> dict[str, LopsidedLinear]:
    """Return the layers that hold the adapter, by module name.

    Raises:
        LopsidedError: if there is none.
    """
    layers = dict(layers_of(model, adapter))
    if not layers:
        raise LopsidedError(f"the model has no Lopsided adapter named {adapter!r}; add one with lopsided.adapt")
    return layers


def trained_numbers(model: nn.Module) -> int:
    """Return how many numbers a training run of the model changes, heads included."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
