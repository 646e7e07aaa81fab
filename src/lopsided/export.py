"""Any adapter, any chain, as one plain LoRA adapter."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.files.atomic import atomic_folder
from lopsided.files.manifest import PEFT_PREFIX
from lopsided.files.untrusted import ADAPTER_WEIGHTS
from lopsided.tuner import LopsidedLinear, layers_with, single_active
from lopsided.tuner.forward.plain_product import why_no_product
from lopsided.tuner.kinds.linear import LinearKind, TransposedKind
from lopsided.tuner.kinds.parameter import MatrixKind
from lopsided.tuner.parameters.as_lora import parameters_as_lora


class PlainLoraConfig(LoraConfig):
    """The configuration of an exported adapter: a `LoraConfig` that shows itself in one line."""

    def __repr__(self) -> str:
        ranks = f"r={self.r}" if not self.rank_pattern else f"r={self.r} and other ranks"
        modules = self.target_modules
        named = repr(modules) if isinstance(modules, str) else f"{len(modules or ())} modules"
        return f"{type(self).__name__}({ranks}, on {named})"


def to_lora(model: nn.Module, path: str | Path, adapter_name: str | None = None) -> PlainLoraConfig:
    """Write the adapter as a LoRA adapter that stock PEFT loads on the original base model.

    ΔW = s·Σ B_t·A_t over the links becomes one product of rank Σ r_t with lora_B = s·[B_1 … B_k],
    lora_A = [A_1; …; A_k] and a scale of 1. A selector is written out as a matrix of zeros and ones. A warning names
    layers in which the LoRA adapter is the same function only as long as nobody merges it.

    Args:
        model: with a Lopsided adapter.
        path: folder to write; an older one is replaced only when the new one is whole.
        adapter_name: which adapter; None takes the active one.

    Returns:
        The LoRA configuration that was written, a `peft.LoraConfig`.

    Raises:
        LopsidedError: if the model has no Lopsided adapter, as after full fine-tuning, or several active ones; if a
            layer's LoRA adapter would be another function in stock PEFT.
    """
    config, tensors = lora_of(model, adapter_name)
    with atomic_folder(Path(path)) as folder:
        write_lora_files(folder, config, tensors)
    return config


def write_lora_files(folder: Path, config: LoraConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write a LoRA adapter's tensors and configuration into a folder that exists."""
    save_file(dict(tensors), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def lora_of(model: nn.Module, adapter_name: str | None = None) -> tuple[PlainLoraConfig, dict[str, Tensor]]:
    """Return what `to_lora` writes: the configuration, and the tensors by their names in the file.

    Raises:
        LopsidedError: as `to_lora` does.
    """
    name = adapter_name or single_active(model)
    assert isinstance(model, PeftModel)
    layers = layers_with(model, name)
    _check_layers(layers)
    _warn_of_merges(layers)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for module, layer in layers.items():
        if isinstance(layer.kind, MatrixKind):
            continue
        factors = layer.kind.as_lora(layer.base_layer, *_lora_factors(layer, name))
        tensors |= {f"{module}.{factor}": tensor.contiguous() for factor, tensor in factors.items()}
        ranks[module.removeprefix(PEFT_PREFIX)] = len(next(iter(factors.values())))
    targets = _target_modules(model, ranks)
    parameters = parameters_as_lora(model, name, partial(_lora_factors, name=name))
    for key, update in parameters.items():
        tensors |= {factor: tensor.contiguous() for factor, tensor in update.tensors.items()}
        ranks[key.removeprefix(PEFT_PREFIX)] = update.rank
    linear = [layer.kind for layer in layers.values() if isinstance(layer.kind, LinearKind)]
    ours = model.peft_config[name]
    config = plain_lora_config(
        ranks,
        targets,
        target_parameters=[key.removeprefix(PEFT_PREFIX) for key in parameters],
        transposed=bool(linear) and all(isinstance(kind, TransposedKind) for kind in linear),
        modules_to_save=ours.modules_to_save,
        task_type=ours.task_type,
        base=ours.base_model_name_or_path,
    )
    return config, tensors | _heads(model, name)


def _check_layers(layers: Mapping[str, LopsidedLinear]) -> None:
    for name, layer in layers.items():
        if reason := layer.kind.why_no_lora(layer.base_layer):
            raise LopsidedError(
                f"{name} can't be a LoRA adapter: {reason}, so it would be another function; expected layers in which "
                "both agree; merge the adapter into the model instead, with merge_and_unload"
            )


def _warn_of_merges(layers: Mapping[str, LopsidedLinear]) -> None:
    reasons = {name: reason for name, layer in layers.items() if (reason := why_no_product(layer.base_layer))}
    if reasons:
        [(name, reason), *others] = reasons.items()
        more = f" and {len(others)} more layers" if others else ""
        warnings.warn(
            f"merging the exported adapter would change the function in {name}{more}: {reason}; keep it unmerged there",
            LopsidedWarning,
            stacklevel=4,
        )


@torch.no_grad()
def _lora_factors(layer: LopsidedLinear, name: str) -> tuple[Tensor, Tensor]:
    """Return (A, B) over all links with the scale in B: (Σ r, d_in) and (d_out, Σ r), float32 on the CPU."""
    pairs = [term.dense() for term in layer.terms(name, torch.device("cpu"))]
    A = torch.cat([A.float() for A, _ in pairs], dim=0)
    B = torch.cat([B.float() for _, B in pairs], dim=1)
    return A.contiguous(), (B * layer.scaling[name]).contiguous()


def plain_lora_config(
    ranks: Mapping[str, int],
    target_modules: list[str] | str,
    *,
    target_parameters: list[str] | None = None,
    transposed: bool,
    modules_to_save: list[str] | None,
    task_type: str | None,
    base: str | None,
) -> PlainLoraConfig:
    """Return the configuration of a LoRA adapter whose scale is 1 in every layer.

    Args:
        ranks: by module, or parameter.
        target_modules: names of the same modules, or an expression that matches these alone.
        target_parameters: names of parameters among them.
        transposed: whether they store their weights as (d_in, d_out).
        modules_to_save, task_type: as in PEFT.
        base: the base model's name.
    """
    [(rank, _)] = Counter(ranks.values()).most_common(1)
    # Anchored and escaped, since PEFT reads these keys as ends of regular expressions.
    others = {f"^{re.escape(module)}": r for module, r in ranks.items() if r != rank}
    return PlainLoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=others,
        alpha_pattern=dict(others),
        target_modules=target_modules,
        target_parameters=target_parameters or None,
        modules_to_save=modules_to_save,
        fan_in_fan_out=transposed,
        task_type=task_type,
        base_model_name_or_path=base,
        inference_mode=True,
    )


def _target_modules(model: PeftModel, ranks: dict[str, int]) -> list[str] | str:
    """Return the adapted modules by name, or as one expression where PEFT would also match the end of another name."""
    others = [name for name, _ in model.get_base_model().named_modules() if name not in ranks]
    if any(other.endswith(f".{name}") for other in others for name in ranks if "." not in name):
        return "|".join(re.escape(name) for name in sorted(ranks))
    return sorted(ranks)


def _heads(model: PeftModel, name: str) -> dict[str, Tensor]:
    """Return the trained heads, under the names that a saved adapter gives them."""
    saved = get_peft_model_state_dict(model, adapter_name=name)
    return {key: t.contiguous() for key, t in saved.items() if ".lopsided_" not in key}
