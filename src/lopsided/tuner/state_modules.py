"""What decides an adapter's function, as modules whose tensors every loader finds.

A layer holds, per adapter, `lopsided_<letter>.<adapter>.weight`, a trained factor named as PEFT names its own, and
`lopsided_state.<adapter>.<what>`, the frozen rest: the seed, the checksums and indices of the sketches, the past links.
A loader that goes by the names of a `state_dict`, asks for a tensor by `getattr`, and puts another one in its place by
`setattr` or `load_state_dict` works on both alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from safetensors.torch import load
from torch import Tensor, nn

from lopsided.method import LETTERS
from lopsided.tuner.adapter import Adapter
from lopsided.tuner.packing import EXTRAS, pack

STATE = "lopsided_state"
# Whether a `state_dict` is only asked for its adapter, so that base weights need not be undone for it.
ADAPTER_ONLY: ContextVar[bool] = ContextVar("lopsided_adapter_only", default=False)


class Factor(nn.Module):
    """A trained factor: `lopsided_B.<adapter>.weight`, where other libraries look for one."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def extra_repr(self) -> str:
        """Return the factor's shape, for `repr`."""
        return " x ".join(map(str, self.weight.shape))


class State(nn.Module):
    """The frozen tensors of an adapter: computed from it when they are read, kept for it when they are loaded.

    They are no parameters and no buffers: nothing trains, casts, averages or broadcasts them. What arrives by
    assignment is taken over by the layer before it next computes.
    """

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    def tensors(self) -> dict[str, Tensor]:
        """Return the frozen tensors by kind; placeholders of their shapes where a saved adapter has yet to arrive."""
        return {**pack(self.adapter), **self.adapter.arrivals}

    def __getattr__(self, name: str) -> Any:
        if name in EXTRAS and name in (tensors := self.tensors()):
            return tensors[name]
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in EXTRAS:
            self.adapter.arrivals[name] = value.detach()
        else:
            super().__setattr__(name, value)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        destination.update({f"{prefix}{what}": tensor for what, tensor in self.tensors().items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        mine = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
        self.adapter.arrivals |= {what: tensor for what, tensor in mine.items() if what in EXTRAS}
        if strict:
            unexpected_keys += [f"{prefix}{what}" for what in mine.keys() - set(EXTRAS)]
            missing_keys += [] if mine else [f"{prefix}{what}" for what in self.tensors()]


def translate_schema_1(state_dict: dict[str, Tensor], prefix: str, adapters: Mapping[str, Adapter]) -> bool:
    """Give a layer's entries in a `state_dict` of version 0.1.0 their present names, and hand them to its adapters.

    Returns:
        Whether they were of that version. Their base weight holds the links then, not W0.
    """
    container = state_dict.pop(f"{prefix}_extra_state", None)
    if container is None:
        return False
    extras = load(bytes(container.cpu().numpy()))
    for name, adapter in adapters.items():
        for letter in adapter.letters:
            if (factor := state_dict.pop(f"{prefix}lopsided_{letter}.{name}", None)) is not None:
                state_dict[f"{prefix}lopsided_{letter}.{name}.weight"] = factor
        for key, tensor in extras.items():
            path, _, owner = key.rpartition(".")
            place = parse_key(f"layer.{path}")
            if owner == name and place is not None:
                _, what = place
                adapter.arrivals[what] = tensor
                state_dict[f"{prefix}{STATE}.{name}.{what}"] = tensor
    return True


# -- names -----------------------------------------------------------------------------------------------------


def key_of(module: str, what: str, adapter: str) -> str:
    """Return the live name of a tensor: a factor by its letter, or one of the frozen ones.

    Example:
        >>> key_of("query", "B", "default"), key_of("query", "seed", "default")
        ('query.lopsided_B.default.weight', 'query.lopsided_state.default.seed')
    """
    if what in LETTERS:
        return f"{module}.lopsided_{what}.{adapter}.weight"
    return f"{module}.{STATE}.{adapter}.{what}"


def parse_key(key: str) -> tuple[str, str] | None:
    """Return the module and the kind of a tensor, by its name in a file; None for what is none of ours.

    Example:
        >>> parse_key("query.lopsided_B.weight"), parse_key("query.lopsided_state.seed")
        (('query', 'B'), ('query', 'seed'))
        >>> parse_key("query.lopsided_past_B")  # schema 1
        ('query', 'past_B')
    """
    module, _, rest = key.rpartition(".lopsided_")
    name, _, last = rest.partition(".")
    what = last if name == "state" else name
    if not module or (last and name != "state" and last != "weight"):
        return None
    return (module, what) if what in (*LETTERS, *EXTRAS) else None


def without_wrappers(name: str) -> str:
    """Return a module's name without what FSDP and `torch.compile` put into it, as state dicts have it."""
    for wrapper in ("_fsdp_wrapped_module.", "_orig_mod."):
        name = name.replace(wrapper, "")
    return name
