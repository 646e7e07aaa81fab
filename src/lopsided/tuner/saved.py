"""The load of a saved adapter, and the manifest of a save.

All of a saved adapter is checked before any layer changes, so it loads whole or not at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from peft.tuners.tuners_utils import _remove_adapter_name_from_state_dict_key
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.files.fingerprint import check_base, is_floating, is_read
from lopsided.files.manifest import KEY, PEFT_PREFIX, seal, unseal
from lopsided.finite import check_finite
from lopsided.tuner.arrivals import check_unmerged, original_weight
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.kinds.linear import LinearKind
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.model_queries import layers_of
from lopsided.tuner.packing import EXTRAS, label, unpack
from lopsided.tuner.state_modules import key_of, parse_key, without_wrappers
from lopsided.tuner.weight.sharded import gathered


@dataclass(frozen=True)
class Loading:
    """What a caller of PEFT wants, where PEFT does not pass it on.

    Args:
        allow_base_mismatch: put the adapter on a base that its fingerprints say is another one.
        ignore_mismatched_sizes: keep the model's own head where the saved one has another shape.
        low_cpu_mem_usage: whether factors may be on the meta device until they are loaded. Where PEFT's functions are
            called directly, nothing is known of it.
    """

    allow_base_mismatch: bool = False
    ignore_mismatched_sizes: bool = False
    low_cpu_mem_usage: bool = True


_LOADING: ContextVar[Loading] = ContextVar("lopsided_loading")


@contextmanager
def loading(options: Loading) -> Iterator[None]:
    """Inside the context, loads follow these options."""
    token = _LOADING.set(options)
    try:
        yield
    finally:
        _LOADING.reset(token)


# -- saving --------------------------------------------------------------------------------------------------


class SealedTensors(dict[str, Tensor]):
    """An adapter's tensors, to which PEFT still adds heads and embeddings; `items` closes them with a manifest.

    PEFT asks for the items once, when everything is in. A list of what it will add, made here, would have to follow
    PEFT's rules for embeddings, which depend on an argument that does not reach the tuner.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        layers: Mapping[str, LopsidedLinear],
        name: str,
        adapted: Mapping[str, LopsidedLinear],
    ) -> None:
        super().__init__(tensors)
        self.layers, self.name = layers, name
        # An output embedding that is adapted, by whichever adapter, is saved with it: as W0, without any links.
        self.bases = {f"{without_wrappers(module)}.base_layer.weight": layer for module, layer in adapted.items()}

    def items(self) -> Any:
        """Return the tensors and the manifest, everything in one piece and every base weight as W0."""
        # Every process asks for the items, so that what is sharded can be gathered.
        originals = [(k, original_weight(self.bases[k], t) if k in self.bases else t) for k, t in super().items()]
        entries, name = [(key, gathered(tensor)) for key, tensor in originals], self.name
        plain = {_remove_adapter_name_from_state_dict_key(key, name): tensor for key, tensor in entries}
        manifest = seal(plain, next(iter(self.layers.values())).adapters[name].method, _scales(self.layers, name))
        prefix = PEFT_PREFIX if next(iter(self.layers)).startswith(PEFT_PREFIX) else ""
        return entries if manifest is None else [*entries, (f"{prefix}{KEY}.{name}", manifest)]


def check_in_memory(tensors: Mapping[str, Tensor]) -> None:
    """Raise for tensors without data, before a save leaves anything behind."""
    on_meta = [key for key, tensor in tensors.items() if tensor.is_meta]
    if on_meta:
        raise LopsidedError(
            f"{on_meta[0]} is on the meta device or offloaded; expected tensors in memory to save; take the offloading "
            "off"
        )


def _scales(layers: Mapping[str, LopsidedLinear], name: str) -> list[tuple[int, float]]:
    return [(layer.r[name], layer.adapters[name].scaling) for layer in layers.values()]


def note_base(config: LopsidedConfig, layers: Mapping[str, LopsidedLinear]) -> None:
    """Write into the configuration what the layers' original weights look like.

    A weight that can't be read now, because it is sharded or on the meta device, keeps what was noted before; so does
    a quantized one, whose bytes a quantizer may rearrange for its kernels.
    """
    present = [layer.base_weight.fingerprint() for layer in layers.values()]
    noted = config.base if config.base is not None and len(config.base) == len(present) else present
    config.base = [new if is_floating(new) or not is_read(old) else old for old, new in zip(noted, present)]
    names = {module: without_wrappers(module).removeprefix(PEFT_PREFIX) for module in layers}
    # Of the others the file alone says what their factors are.
    config.kinds = {
        names[module]: layer.kind.word for module, layer in layers.items() if layer.kind.word != LinearKind.word
    }


# -- loading -------------------------------------------------------------------------------------------------


def meet_base(saved: LopsidedConfig, layers: Mapping[str, LopsidedLinear]) -> None:
    """Compare the base that an adapter was saved on with the one that it is put on.

    Raises:
        LopsidedError: if this is another base, unless the caller allows it.
    """
    if saved.base is None or saved.allow_base_mismatch or _LOADING.get(Loading()).allow_base_mismatch:
        return
    check_base(saved.base, {name: layer.base_weight.fingerprint() for name, layer in layers.items()})


def accept(model: nn.Module, config: LopsidedConfig, name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a saved adapter under the model's names, after every check that can be made.

    Raises:
        LopsidedError: for tensors that are damaged, not finite, of another shape, method, rank or scale, or that do
            not fit the model. Nothing has changed then.
    """
    layers = layers_of(model, name)
    for layer in layers.values():
        check_unmerged(layer, name)
    on_meta = [module for module, layer in layers.items() if any(f.is_meta for f in layer.trained(name).values())]
    if on_meta and not _LOADING.get(Loading()).low_cpu_mem_usage:
        raise LopsidedError(
            f"{on_meta[0]} is on the meta device, where a load would be lost; expected weights in memory; load the "
            "base first, or pass low_cpu_mem_usage=True"
        )
    manifest, tensors = unseal(state_dict)
    by_layer, others = _placed(model, config, layers, tensors)
    _check_complete(by_layer, layers, name)
    if manifest is None:
        warnings.warn(
            f"adapter {name!r} was saved without a manifest, so damage to it can't be seen; save it again to add one",
            LopsidedWarning,
            stacklevel=2,
        )
    else:
        manifest.check_tensors(_by_file_name(model, name, tensors), translated=True)
        manifest.check_owner(config.as_method(), _scales(layers, name), f"adapter {name!r}")
    _check_heads(others)
    prepared = {
        module: unpack(layer.adapters[name], by_layer[module], layer.base_weight.for_sketches(layer.adapters))
        for module, layer in layers.items()
    }
    for module, layer in layers.items():
        # These very tensors are about to arrive: what they make is not computed again.
        layer.adapters[name].expected = by_layer[module], prepared[module]
    config.link, config.waiting = next(iter(prepared.values())).link, False
    loaded = {key: tensor for key, (tensor, _) in others.items()}
    if any(key.endswith(".lopsided_seed") for key in tensors):
        # Version 0.1.0 saved an adapted output embedding with its links in it, which are written over W0 here.
        linked = {f"{without_wrappers(module)}.base_layer.weight" for module in layers if prepared[module].link}
        loaded = {key: tensor for key, tensor in loaded.items() if key not in linked}
    for module, kinds in by_layer.items():
        loaded |= {key_of(without_wrappers(module), what, name): tensor for what, tensor in kinds.items()}
    return loaded


def _placed(
    model: nn.Module, config: LopsidedConfig, layers: Mapping[str, LopsidedLinear], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, tuple[Tensor, Tensor]]]:
    """Return each layer's tensors by what they are, and the others with the live tensor that each replaces."""
    plain = {without_wrappers(module).removeprefix(PEFT_PREFIX): module for module in layers}
    by_layer: dict[str, dict[str, Tensor]] = {module: {} for module in layers}
    others = {}
    kinds = {*EXTRAS, *config.as_method().adapter_side.letters}
    prefixed = any(module.startswith(PEFT_PREFIX) for module in layers)
    for key, tensor in tensors.items():
        path, what = parse_key(key.removeprefix(PEFT_PREFIX)) or ("", "")
        if path in plain and what in kinds:
            by_layer[plain[path]][what] = tensor
            continue
        # A model without a PeftModel around it has no prefix.
        name = key if prefixed else key.removeprefix(PEFT_PREFIX)
        live = _live_tensor(model, name)
        if live is None or ".lopsided_" in name:
            raise LopsidedError(
                f"the saved adapter holds {key!r}, which the model has no place for; expected an adapter of "
                f"method {config.method!r} on these modules; load it on the model it was trained on"
            )
        others[name] = tensor, live
    return by_layer, others


def _live_tensor(model: nn.Module, name: str) -> Tensor | None:
    """Return the parameter or saved buffer of that name, or None."""
    path, _, last = name.rpartition(".")
    try:
        holder = model.get_submodule(path)
    except AttributeError:
        return None
    if last in holder._non_persistent_buffers_set:
        return None
    parameter = holder._parameters.get(last)
    return parameter if parameter is not None else holder._buffers.get(last)


def _check_complete(by_layer: Mapping[str, Mapping[str, Tensor]], layers: Mapping[str, Any], name: str) -> None:
    first = next(iter(layers.values()))
    trained = list(first.trained(name))
    links = max((len(kinds["checksum"]) for kinds in by_layer.values() if "checksum" in kinds), default=1)
    has_past = first.adapters[name].past_links(links - 1) > 0
    required = ["seed", "checksum", *trained, *(f"past_{letter}" for letter in trained if has_past)]
    for what in required:
        missing = [module for module, kinds in by_layer.items() if what not in kinds]
        if missing:
            raise LopsidedError(
                f"the saved adapter lacks {label(what)} of {len(missing)} of {len(layers)} adapted layers, "
                f"{missing[0]} among them; expected all; load it with the target_modules it was trained with"
            )


def _by_file_name(model: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names that they have in the file: PEFT has renamed those of trained heads."""
    saved = {
        f"{path}.{live}": f"{path}.{file}"
        for path, module in model.named_modules()
        if isinstance(module, AuxiliaryTrainingWrapper)
        for file, live in module.adapter_state_dict_load_map(name).items()
    }
    return {saved.get(key, key): tensor for key, tensor in tensors.items()}


def _check_heads(others: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    for key, (tensor, live) in others.items():
        if tensor.shape != live.shape and not _LOADING.get(Loading()).ignore_mismatched_sizes:
            raise LopsidedError(
                f"the saved adapter holds {key} of shape {list(tensor.shape)}, the model's is {list(live.shape)}; load "
                "it on a model with the same head, or pass ignore_mismatched_sizes=True to keep the model's"
            )
        # A buffer may hold infinities, as a mask does.
        if isinstance(live, nn.Parameter):
            check_finite(key, tensor, fix="go back to an earlier save")
