"""What `target_modules` and `target_parameters` ask for on a model whose experts and routers are parameters.

transformers 5 joins the experts of a checkpoint: `w1` and `w3` of all of them are one stack, `gate_up_proj`. The names
of the checkpoint go on meaning what they meant, as they do for LoRA in PEFT: a joined stack has the rank of its parts
together and their scale, and to ask for one part without the other is an error. Where PEFT gives a name to the experts
alone, a layer of that name, say of a shared expert, is adapted here as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from torch import nn
from transformers import PreTrainedModel

from lopsided.errors import LopsidedError, suggestion
from lopsided.tuner.config import LopsidedConfig
from lopsided.tuner.loose_weights import LooseWeight, joined_parts, loose_names, loose_weights
from lopsided.tuner.parameters.adapted_parameters import AdaptedParameters
from lopsided.tuner.supported_layers import why_unsupported
from lopsided.tuner.targets import is_all_linear, is_taken_out, matches_by_name, module_names

SHOWN = 6


def settle_parameters(config: LopsidedConfig, model: nn.Module) -> None:
    """Write into `target_parameters` what `target_modules` asks for in no layer, and take it out there.

    Raises:
        LopsidedError: for a part of a joined stack without the others; for a name in `target_parameters` that is none.
    """
    check_parameter_names(config, model)
    if config.layers_to_transform is not None and config.layers_to_transform != []:
        # PEFT reads it for modules alone: what is in no layer stays in `target_modules`, and is refused there by name.
        return
    asked = _asked_of(config, model)
    families = joined_parts(model)
    for key, names in asked.items():
        parts = _parts_asked(key, names, families.get(key.rpartition(".")[2], ()))
        if parts > 1:
            assert config.alpha is not None
            pattern = f"^{re.escape(key)}$"
            config.rank_pattern[pattern] = parts * config.r
            config.alpha_pattern[pattern] = parts * config.alpha
    if asked:
        config.target_parameters = sorted({*(config.target_parameters or ()), *asked})


def _asked_of(config: LopsidedConfig, model: nn.Module) -> dict[str, set[str]]:
    """Return the parameters that are asked for, each with the last names that it was asked for by."""
    targets, asked = config.target_modules, dict[str, set[str]]()
    if targets is None:
        return {}
    # PEFT adapts no parameter of the model itself, next to which there is no module to put an adapter's around.
    inner = [(name, weight) for name, weight in loose_names(model) if "." in weight.key]
    loose = [(name, weight) for name, weight in inner if not is_taken_out(config, name)]
    if is_all_linear(targets):
        for name in _all_linear_names(model):
            _note(asked, ((key, weight) for key, weight in loose if key.endswith(f".{name}")))
    elif isinstance(targets, str):
        _note(asked, (pair for pair in loose if check_target_module_exists(config, pair[0])))
    else:
        modules = [key for key in module_names(model) if key]
        by_name = matches_by_name(targets, modules)
        found = matches_by_name(targets, [key for key, _ in loose])
        weights = dict(loose)
        for name in sorted(targets):
            keys = [*found[name], *(key for key in _routers(model, by_name[name]) if key in weights)]
            _note(asked, ((key, weights[key]) for key in keys))
            if keys and all(_is_router(model, module) for module in by_name[name]):
                config.target_modules = set(config.target_modules or ()) - {name}  # type: ignore[assignment]
    return asked


def _note(asked: dict[str, set[str]], found: Iterable[tuple[str, LooseWeight]]) -> None:
    for name, weight in found:
        asked.setdefault(weight.key, set()).add(name.rpartition(".")[2])


def _all_linear_names(model: nn.Module) -> list[str]:
    """Return the names that were linear layers before experts were joined, where PEFT knows them."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    known = _MOE_TARGET_MODULE_MAPPING.get(_MODEL_TO_CONVERSION_PATTERN.get(kind, ""), {})
    return [new if "." in new else old for old, new in known.items()] if isinstance(model, PreTrainedModel) else []


def _routers(model: nn.Module, modules: Iterable[str]) -> list[str]:
    """Return the matrices of modules that are no layers and hold one: routers."""
    return [f"{module}.weight" for module in modules if _is_router(model, module)]


def _is_router(model: nn.Module, key: str) -> bool:
    name, _, child = key.rpartition(".")
    module, parent = model.get_submodule(key), model.get_submodule(name)
    if isinstance(module, AdaptedParameters):
        module = module.base_layer
    return "weight" in module._parameters and why_unsupported(module, child, parent) is not None


def _parts_asked(key: str, names: set[str], families: Iterable[frozenset[str]]) -> int:
    """Return how many joined parts of a parameter are asked for; 1 if it is asked for by its own name."""
    own = key.rpartition(".")[2]
    if own in names:
        return 1
    for family in families:
        if names & family:
            if missing := family - names:
                got, rest = (", ".join(sorted(part)) for part in (names & family, missing))
                raise LopsidedError(
                    f"target_modules: {got} and {rest} are joined in {key}, got the first alone; expected all of "
                    "them or none; name the others, too, or leave it out"
                )
            return len(family)
    return 1


def check_parameter_names(config: LopsidedConfig, model: nn.Module) -> None:
    """Raise unless every name in `target_parameters` is one of the model's parameters.

    Raises:
        LopsidedError: for a name that is none, and next to `layers_to_transform`, which PEFT does not read for
            parameters.
    """
    if not config.target_parameters:
        return
    if config.layers_to_transform is not None and config.layers_to_transform != []:
        raise LopsidedError(
            f"layers_to_transform={config.layers_to_transform!r:.60} chooses among modules, got target_parameters="
            f"{sorted(config.target_parameters)!r:.80}; expected one of the two; list the parameters by name"
        )
    keys = [name.replace(".base_layer", "") for name, _ in model.named_parameters()]
    for name in config.target_parameters:
        if not any(key == name or key.endswith(f".{name}") for key in keys):
            loose = sorted({weight.key.rpartition(".")[2] for weight in loose_weights(model)})
            raise LopsidedError(
                f"target_parameters: {name!r:.80} is no parameter's name or end of one; expected one such as "
                f"{', '.join(loose[:SHOWN]) or 'none here'}; correct it{suggestion(name, loose)}"
            )
