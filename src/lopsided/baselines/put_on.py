"""A baseline on a model: put on for training, loaded again, and taken off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from lopsided.baselines.baseline import Baseline, BaselineSetting, baseline_of
from lopsided.baselines.rank_budget import penalize_in_training_alone
from lopsided.errors import LopsidedError, first_line
from lopsided.files.untrusted import ADAPTER_CONFIG, read_json
from lopsided.method import Method
from lopsided.method.sketch import generator
from lopsided.models.heads import task_type
from lopsided.tuner import LopsidedConfig
from lopsided.tuner.model import LopsidedModel
from lopsided.tuner.targets import DEFAULTS, check_targets, is_all_linear, settle_all_linear

# The stream of random numbers of a run's seed that baselines draw from.
STREAM = 4


def put_on(
    model: nn.Module,
    method: Method,
    *,
    rank: int,
    alpha: float | None,
    targets: list[str] | str | None,
    heads: Sequence[str],
    dropout: float,
    steps: int,
    seed: int,
) -> PeftModel:
    """Put a method of PEFT on a model, in place, with random factors that depend on the seed alone.

    Args:
        model: of transformers.
        method: "peft:...".
        rank, alpha: of `BaselineSetting`; None of alpha takes 2·rank, as for our own methods.
        targets: as for our own methods: names, a regular expression, "all-linear", or None for the architecture's
            default.
        heads: modules that train along.
        dropout: on the adapters' inputs.
        steps: of the run.
        seed: of the run.

    Raises:
        LopsidedError: if the method, a layer or the model do not go together, with the fix.
    """
    entry = baseline_of(method)
    setting = _setting(
        model, entry, rank=rank, alpha=alpha, targets=targets, heads=heads, dropout=dropout, steps=steps, seed=seed
    )
    problem = next(_problems(model, method, entry, setting, heads), None)
    if problem is not None:
        raise LopsidedError(problem)
    config = entry.config(setting)
    config.task_type, config.modules_to_save = task_type(model), list(heads) or None
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    if on_meta:
        entry.for_trial(config)
    with torch.random.fork_rng():
        # One stream for all layers, in the model's order, whatever was drawn before.
        torch.manual_seed(int(generator(seed, 0, STREAM).randint(2**31)))
        try:
            adapted = get_peft_model(model, config, low_cpu_mem_usage=on_meta)
        # Of PEFT: a layer of a type that it does not adapt, a model that it does not know.
        except (ValueError, TypeError) as error:
            raise LopsidedError(
                f"PEFT refuses to put {method.name!r} on {type(model).__name__}: {first_line(error):.200}; name other "
                "layers in target_modules, or choose another method"
            ) from error
    if not on_meta:
        entry.finish(adapted)
    return adapted


def load(folder: Path, base: nn.Module, *, trainable: bool) -> PeftModel:
    """Load the adapter that an entry's `save` wrote on the model that the run began with.

    Args:
        trainable: whether what was trained has gradients.
    """
    read_json(folder / ADAPTER_CONFIG)
    # AdaLoRA computes no loss after a load for inference.
    adapted: PeftModel = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    penalize_in_training_alone(adapted)
    return adapted if trainable else adapted.requires_grad_(False).eval()


def taken_off(model: PeftModel, *, merged: bool) -> nn.Module:
    """Remove a Lopsided or PEFT adapter in place, and return the plain model with its trained head.

    PEFT's own `unload` and `merge_and_unload` fail for all of its tuners but LoRA where a head is more than one layer,
    such as BERT's pooler: they take its weight.

    Args:
        merged: whether what was trained joins the weights.
    """
    if isinstance(model.base_model, LopsidedModel):
        own: nn.Module = model.merge_and_unload() if merged else model.unload()
        return own
    plain = model.get_base_model()
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            if merged:
                module.merge()
            plain.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            plain.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
    return plain


def _setting(
    model: nn.Module,
    entry: Baseline,
    *,
    alpha: float | None,
    targets: list[str] | str | None,
    heads: Sequence[str],
    **values: Any,
) -> BaselineSetting:
    config: Any = model.config
    model_type = config.model_type
    if targets is None and not entry.own_targets:
        if model_type not in DEFAULTS:
            raise LopsidedError(
                f"target_modules: no layers are known to be adapted by default in a model of type {model_type!r}; "
                "expected names, a regular expression or 'all-linear'; give target_modules"
            )
        targets = DEFAULTS[model_type]
    elif targets is not None:
        targets = _settled(model, targets, heads)
    alpha = 2.0 * values["rank"] if alpha is None else alpha
    return BaselineSetting(targets=targets, alpha=alpha, model_type=model_type, **values)


def _settled(model: nn.Module, targets: list[str] | str, heads: Sequence[str]) -> list[str] | str:
    """Return what our own methods would adapt, so that all methods of a comparison adapt the same layers."""
    ours = LopsidedConfig(method="lora", r=1, target_modules=targets, modules_to_save=list(heads) or None)
    if is_all_linear(targets):
        settle_all_linear(ours, model)
        return sorted(ours.target_modules or ())
    check_targets(ours, model)
    return targets


def _problems(
    model: nn.Module, method: Method, entry: Baseline, setting: BaselineSetting, heads: Sequence[str]
) -> Iterator[str]:
    if setting.dropout and not entry.has_dropout:
        yield f"{method.name} has no dropout on an adapter's inputs, got dropout={setting.dropout:g}; leave it out"
    config = entry.config(setting)
    config.modules_to_save = list(heads) or None
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and check_target_module_exists(config, name):
            d_in, d_out = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
            if (misfit := entry.misfit(setting, d_out, d_in)) is not None:
                yield f"{misfit} (in {name})"
