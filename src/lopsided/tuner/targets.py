"""What a configuration asks to adapt, compared with what can be adapted, before anything is.

PEFT adapts the modules that match and says nothing of the rest: a name that matches nothing next to one that does, an
expert's weights that are a parameter of three dimensions, an index without a layer. Here each is named.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from peft.tuners.tuners_utils import (
    BaseTunerLayer,
    _ExcludedModule,
    _maybe_include_all_linear_layers,
    check_target_module_exists,
)
from peft.utils.constants import INCLUDE_LINEAR_LAYERS_SHORTHAND, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from lopsided.errors import LopsidedError, LopsidedWarning, suggestion
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.loose_weights import LooseWeight, loose_names, loose_weights
from lopsided.tuner.supported_layers import SUPPORTED, why_unsupported
from lopsided.tuner.weight_readers import reader_of

# What is adapted where nothing is asked for, by type of model. PEFT's table is read when it is needed, so entries that
# were added after the import count; what is written here stays here.
DEFAULTS: ChainMap[str, Any] = ChainMap(
    {},
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    {"vit": ["q_proj", "v_proj"], "deit": ["q_proj", "v_proj"], "distilbert": ["q_lin", "v_lin"]},
)
SHOWN = 4


def is_all_linear(targets: Any) -> bool:
    """Return whether `target_modules` asks for all linear layers, as PEFT reads it."""
    return isinstance(targets, str) and targets.lower() == INCLUDE_LINEAR_LAYERS_SHORTHAND


def settle_all_linear(config: LopsidedConfig, model: nn.Module) -> None:
    """Write the names of all layers that can be adapted into a configuration that asks for "all-linear".

    They are those that PEFT finds, without the ones that `why_unsupported` refuses. A warning says in one line which
    weights stay out that one would count as linear layers.

    Raises:
        LopsidedError: if no layer is left.
    """
    # PEFT writes the names into the configuration that it is given.
    linear = set(_maybe_include_all_linear_layers(copy.copy(config), model).target_modules)
    left_out = {key: kind for key in sorted(linear) if (kind := _refused_as(model, key)) is not None}
    names: Any = linear - left_out.keys()
    left_out |= _owned(w for w in loose_weights(model) if not _is_parameter_target(config, w.key))
    # What exclude_modules or modules_to_save names, the user has taken out.
    left_out = {key: kind for key, kind in left_out.items() if not is_taken_out(config, key)}
    if not names:
        why = f", only {_listed(left_out)}" if left_out else ""
        raise LopsidedError(
            f"'all-linear' finds no layer that can be adapted{why}; supported: {SUPPORTED}; name the layers in "
            "target_modules"
        )
    config.target_modules = names
    if left_out:
        warnings.warn(
            f"'all-linear' leaves out {_listed(left_out)}, which stay as they are; supported: {SUPPORTED}, and "
            "parameters by target_parameters; to adapt the rest without this warning, list these in exclude_modules",
            LopsidedWarning,
            stacklevel=2,
        )


def _refused_as(model: nn.Module, key: str) -> str | None:
    """Return what a layer is, for the warning, if it cannot be adapted; None if it can."""
    name, _, child = key.rpartition(".")
    target, parent = model.get_submodule(key), model.get_submodule(name)
    if isinstance(target, BaseTunerLayer) or why_unsupported(target, child, parent) is None:
        return None
    return f"read by {type(parent).__name__}" if reader_of(parent, child) else type(target).__name__


def _is_parameter_target(config: LopsidedConfig, key: str) -> bool:
    """Return whether `target_parameters` adapts a weight."""
    names = config.target_parameters or ()
    return key in names or key.endswith(tuple(f".{name}" for name in names))


def is_taken_out(config: LopsidedConfig, key: str) -> bool:
    """Return whether `exclude_modules` or `modules_to_save` names a weight, or a module around it."""
    parts = key.split(".")
    around = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return any(isinstance(check_target_module_exists(config, name), _ExcludedModule) for name in around)


# -- names and expressions -------------------------------------------------------------------------------------------


def check_targets(config: LopsidedConfig, model: nn.Module) -> None:
    """Raise unless everything that `target_modules` asks for can be adapted.

    Args:
        config: with target_modules of the user's own: names, or a regular expression.

    Raises:
        LopsidedError: for a name that matches no module, or only those that `layers_to_transform` or `modules_to_save`
            take out; for a name or an expression that also stands for weights in no layer; for an index in
            `layers_to_transform` that no targeted module has.
    """
    modules = [key for key in module_names(model) if key]
    loose = {name: weight for name, weight in loose_names(model) if not _is_parameter_target(config, weight.key)}
    asks_for = {
        key: weight
        for key, weight in loose.items()
        if check_target_module_exists(config, key) and not is_taken_out(config, key)
    }
    if isinstance(config.target_modules, str):
        if asks_for:
            matches = [key for key in modules if check_target_module_exists(config, key)]
            raise _partly(f"the expression {config.target_modules!r:.80}", asks_for.values(), matches)
        return
    names = sorted(config.target_modules or ())
    by_name, loose_by_name = matches_by_name(names, modules), matches_by_name(names, loose)
    missing = [name for name in names if not any(check_target_module_exists(config, key) for key in by_name[name])]
    # What exclude_modules takes out, the user has said.
    missing = [name for name in missing if not _is_excluded(config, by_name[name])]
    if missing:
        parts = {name: _owned(loose[key] for key in loose_by_name[name]) for name in missing}
        raise _not_adapted(config, model, by_name, parts)
    partly = [name for name in names if any(key in asks_for for key in loose_by_name[name])]
    if partly:
        weights = [asks_for[key] for name in partly for key in loose_by_name[name] if key in asks_for]
        raise _partly(", ".join(map(repr, partly)), weights, [key for name in partly for key in by_name[name]])
    _check_layers(config, by_name)


def _partly(what: str, weights: Iterable[LooseWeight], modules: list[str]) -> LopsidedError:
    rest = f"; for the rest, name {_short_names(modules)}" if modules else ""
    return LopsidedError(
        f"target_modules: {what} also means {_listed(_owned(weights))}, which can't be adapted; expected modules of "
        f"{SUPPORTED}, got parameters in no such layer; name them in target_parameters, or leave them out{rest}"
    )


def _not_adapted(
    config: LopsidedConfig,
    model: nn.Module,
    by_name: Mapping[str, list[str]],
    parts: Mapping[str, Mapping[str, str]],
) -> LopsidedError:
    """Return the error about names of which nothing is adapted.

    Args:
        by_name: the modules that each name matches.
        parts: for each name of which nothing is adapted, the weights in no layer that it stands for, with their owners.
    """
    reasons: dict[str, list[str]] = {}
    hint = ""
    for name, weights in parts.items():
        if weights:
            reason = f"part of {_listed(weights)}, in no layer that can be adapted"
        elif by_name[name]:
            reason = _taken_out(config, by_name[name][0])
        else:
            reason = "no module's name"
            hint = hint or suggestion(name, linear_names(model))
        reasons.setdefault(reason, []).append(repr(name))
    words = ", ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    examples = ", ".join(linear_names(model)[:8]) or "none here"
    them = "it" if len(parts) == 1 else "them"
    return LopsidedError(
        f"target_modules: nothing is adapted for {words}; expected names of linear layers, such as {examples}, a "
        f"regular expression, or 'all-linear'; leave {them} out or correct target_modules{hint}"
    )


def _taken_out(config: LopsidedConfig, key: str) -> str:
    for saved in config.modules_to_save or ():
        if re.match(rf"(^|.*\.){saved}($|\..*)", key):
            return f"in modules_to_save as {saved!r}, and trained whole"
    return f"in none of layers_to_transform={config.layers_to_transform!r:.60}"


def _is_excluded(config: LopsidedConfig, keys: Iterable[str]) -> bool:
    """Return whether some of the modules would be adapted without `exclude_modules`."""
    without = copy.copy(config)
    without.exclude_modules = None
    return any(check_target_module_exists(without, key) for key in keys)


def matches_by_name(names: Iterable[str], keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys that each name matches as PEFT matches it: as a whole, or as the end after a dot."""
    matches: dict[str, list[str]] = {name: [] for name in names}
    for key in keys:
        ending = key
        while True:
            if ending in matches:
                matches[ending].append(key)
            _, dot, ending = ending.partition(".")
            if not dot:
                break
    return matches


def module_names(model: nn.Module) -> Iterator[str]:
    """Yield the names of modules that PEFT tries, which does not look into the layers of a tuner."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside) and inside:
            continue
        if isinstance(module, BaseTunerLayer):
            inside += (f"{name}.",)
        yield name


# -- layers_to_transform --------------------------------------------------------------------------------------------


def _check_layers(config: LopsidedConfig, by_name: Mapping[str, list[str]]) -> None:
    if config.layers_to_transform is None or config.layers_to_transform == []:
        return
    whole = [name for name, keys in by_name.items() if name in keys]
    if whole:
        raise LopsidedError(
            f"layers_to_transform chooses among modules of one name, got {whole[0]!r}, a whole name in target_modules, "
            "which it would not act on; name the end of it, or leave layers_to_transform out"
        )
    keys = [key for matches in by_name.values() for key in matches]
    indices = config.layers_to_transform
    for index in [indices] if isinstance(indices, int) else indices:
        layer_alone = copy.copy(config)
        layer_alone.layers_to_transform = [index]
        if not any(check_target_module_exists(layer_alone, key) for key in keys):
            raise LopsidedError(
                f"layers_to_transform={indices!r:.80}: no targeted module lies in layer {index}; expected indices of "
                "layers that the model has; correct layers_to_transform or layers_pattern"
            )


# -- words ----------------------------------------------------------------------------------------------------------


def _owned(weights: Iterable[LooseWeight]) -> dict[str, str]:
    return {weight.key: weight.owner for weight in weights}


def _listed(weights: Mapping[str, str]) -> str:
    """Return weights' names with their owners, in all layers at once: `layers.*.mlp.experts.w1 (Experts)`."""
    owned = [re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", key) + f" ({owner})" for key, owner in weights.items()]
    kinds = list(dict.fromkeys(owned))
    more = f" and {len(kinds) - SHOWN} more kinds" if len(kinds) > SHOWN else ""
    return ", ".join(kinds[:SHOWN]) + more


def _short_names(modules: list[str]) -> str:
    """Return the ends of some modules' names, long enough to say in which module they are."""
    ends = dict.fromkeys(".".join(re.sub(r"\.\d+(?=\.)", "", key).split(".")[-2:]) for key in modules)
    return ", ".join(list(ends)[:SHOWN])


def linear_names(model: nn.Module) -> list[str]:
    """Return the last names of the model's linear layers, adapted ones included, for errors."""
    names = (name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D, BaseTunerLayer)))
    return sorted({name.rsplit(".", 1)[-1] for name in names})
