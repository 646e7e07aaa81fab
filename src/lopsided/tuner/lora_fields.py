"""Fields of `peft.LoraConfig` that a Lopsided configuration does not have, and what to say to whoever passes one.

A script that changes from LoRA passes what it always passed. A value that switches its feature off is taken; any other
would be ignored, so it is refused with what to do in its place.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from peft import LoraConfig

from lopsided.errors import UnknownArgument, suggestion

# What to do for a feature that is not here. PEFT's own fields are read off LoraConfig; one without an entry gets OTHER.
INSTEAD = {
    "bias": "list modules whose biases are to be trained in modules_to_save",
    "trainable_token_indices": "list the embedding in modules_to_save to train all of its rows",
    "ensure_weight_tying": "leave tied modules out of target_modules and modules_to_save",
    "init_lora_weights": "the method's sketch decides how factors start; choose a method, or register one",
    "loftq_config": "quantize the base model before adapting it",
    "eva_config": "choose a method whose sketch reads data, as 'ipa_b' does, and call lopsided.calibrate",
    "corda_config": "choose a method whose sketch reads data, as 'ipa_b' does, and call lopsided.calibrate",
    "lora_ga_config": "a sketch that reads gradients does not exist yet",
    "use_dora": "no method here trains magnitudes; use peft.LoraConfig for DoRA",
    "lora_bias": "a term here is B·A without a bias; list the module in modules_to_save",
    "layer_replication": "replicate the layers of the base model before adapting it",
    "alora_invocation_tokens": "an adapter here acts on all tokens; switch it off around those that it is not for",
    "megatron_config": "parallel linear layers of Megatron cannot be adapted; use peft.LoraConfig",
    "runtime_config": "weights are not offloaded; leave it out",
}
OTHER = "no method here has it; leave it out, or use peft.LoraConfig"

Config = TypeVar("Config")


def takes_lora_fields(cls: type[Config]) -> type[Config]:
    """Make a configuration's class take the fields of `LoraConfig`: those that are off, and `fan_in_fan_out`.

    `fan_in_fan_out`, which says that the weights are stored as (d_in, d_out), stays on the configuration under that
    name until the layers are seen.

    Raises:
        UnknownArgument: when a configuration is made, for a field that is on, and for a name that neither has.
    """
    init: Callable[..., None] = cls.__init__
    known = frozenset(_parameters(cls))

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        self.fan_in_fan_out = options.pop("fan_in_fan_out", None)
        # A file of a later version may have fields that this one lacks; PEFT drops them and says so.
        if options.get("peft_type") is None:
            for name in sorted(options.keys() - known):
                check_off(name, options.pop(name), known)
        init(self, *args, **options)

    # setattr, since a type checker rightly refuses to let anybody replace a class's method.
    setattr(cls, "__init__", __init__)  # noqa: B010
    return cls


def _parameters(cls: Any) -> list[str]:
    """Return the names that a dataclass takes: its fields, and what is for `__post_init__` alone."""
    return [name for name, field in cls.__dataclass_fields__.items() if field.init]


def check_off(name: str, value: Any, known: frozenset[str]) -> None:
    """Raise unless `name` is a field of `LoraConfig` with a value that switches nothing on.

    Example:
        >>> check_off("bias", "none", frozenset())
        >>> check_off("use_dora", True, frozenset())
        Traceback (most recent call last):
        lopsided.errors.UnknownArgument: use_dora=True is LoRA's and does nothing here; expected False; no method ...
    """
    fields = {field.name: field for field in dataclasses.fields(LoraConfig)}
    if name not in fields:
        hint = suggestion(name, sorted(known | fields.keys()))
        raise UnknownArgument(f"LopsidedConfig has no field {name!r}; expected one of {', '.join(sorted(known))}{hint}")
    default = _default_of(fields[name])
    # Where the default is off, so is what is empty. `init_lora_weights` is on by default.
    if value == default or (not default and not value):
        return
    raise UnknownArgument(
        f"{name}={value!r:.60} is LoRA's and does nothing here; expected {default!r:.60}; {INSTEAD.get(name, OTHER)}"
    )


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
