"""The adapter whose frozen part a new adapter of the same configuration shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lopsided.errors import LopsidedError
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.model_queries import layers_of


def like_adapter(
    model: nn.Module, configs: Mapping[str, LopsidedConfig], name: str, config: LopsidedConfig
) -> str | None:
    """Return the adapter on the model whose frozen part a new one of this configuration shares, if there is one.

    TRL makes a reference of an adapter that way: it adds one with the same configuration, and copies the parameters.
    Past links and the seeds of a loaded adapter are no parameters, and must be the same as well.

    Raises:
        LopsidedError: if several adapters have the configuration, and differ in what is frozen.
    """
    if config.waiting:
        return None
    others = [other for other in configs if other != name and layers_of(model, other)]
    if same := [other for other in others if configs[other] is config]:
        return same[0]
    use_aside = without_use(config)
    equal = [other for other in others if without_use(configs[other]) == use_aside]
    layers = [layer.adapters for layer in layers_of(model).values()]
    for other in equal[1:]:
        pairs = [(adapters[equal[0]], adapters[other]) for adapters in layers if other in adapters]
        if not all(first.same_frozen(second) for first, second in pairs):
            raise LopsidedError(
                f"adapters {equal[0]!r} and {other!r} both have the configuration of the new {name!r}, but differ in "
                f"sketches or past links; expected one adapter to copy; pass its own configuration, as in "
                f"add_adapter({name!r}, model.peft_config[{other!r}])"
            )
    return equal[0] if equal else None


def without_use(config: LopsidedConfig) -> dict[str, Any]:
    """Return a configuration without what says how an adapter is used, and what a loader notes."""
    notes = ("inference_mode", "base", "base_model_name_or_path", "auto_mapping", "revision", "schema", "peft_version")
    return {key: set(v) if isinstance(v, list) else v for key, v in config.to_dict().items() if key not in notes}
