"""A saved adapter, checked and put on the base that it is said to fit."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer

from lopsided.errors import LopsidedError
from lopsided.files.fingerprint import fingerprint
from lopsided.files.manifest import KEY, PEFT_PREFIX
from lopsided.files.untrusted import ADAPTER_CONFIG, open_tensors, read_json, weights_in
from lopsided.models.adapter_base import MARKS, head_arguments, peft_config, put_adapter
from lopsided.models.load import load_base, quiet
from lopsided.theory.dims import linear_maps

KINDS = ("LORA", "LOPSIDED")


def load_adapter(folder: Path, base: str, *, allow_base_mismatch: bool = False) -> PeftModel:
    """Load a base in float32 with a saved adapter on it.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        base: `embedded`, `smollm2`, a folder or a Hugging Face name.
        allow_base_mismatch: for Lopsided's adapters, which know the base that they were trained on.

    Raises:
        LopsidedError: if there is no such adapter or base, if they don't fit, or if the adapter does anything but add a
            low-rank product to linear layers.
    """
    if not folder.is_dir():
        raise LopsidedError(f"{folder} is no folder; expected a saved adapter; check the path")
    kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    if kind not in KINDS:
        raise LopsidedError(
            f"{folder / ADAPTER_CONFIG} has peft_type {kind!r:.40}; expected one of {', '.join(KINDS)}; only low-rank "
            "adapters can be diagnosed"
        )
    with open_tensors(weights_in(folder)) as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    config = peft_config(folder)
    if config.peft_type == "LOPSIDED":
        config.allow_base_mismatch = config.allow_base_mismatch or allow_base_mismatch
    with quiet(), torch.random.fork_rng(devices=[]):
        # A head that the adapter does not bring starts the same each time.
        torch.default_generator.manual_seed(0)
        model = load_base(config, base, dtype=torch.float32, **head_arguments(config, shapes))
        before = {name: fingerprint(module.weight) for name, module in linear_maps(model)}
        adapted = put_adapter(model, folder, config, base)
    _check_complete(adapted, shapes, folder, base)
    _check_low_rank(adapted, before, folder)
    return adapted


def _check_complete(model: PeftModel, shapes: dict[str, tuple[int, ...]], folder: Path, base: str) -> None:
    """Raise unless the file and the model have the same adapted layers: PEFT itself accepts a partial match."""
    keys = {key.removeprefix(PEFT_PREFIX) for key in shapes} - {KEY}
    saved = {key.split(mark)[0] for key in keys for mark in MARKS if mark in key}
    adapted = {
        name
        for name, module in model.get_base_model().named_modules()
        if any(True for child, _ in module.named_children() if child.startswith(("lora_A", "lopsided_A")))
    }
    if saved != adapted:
        odd = min(saved ^ adapted)
        where = "in the file but not in the model" if odd in saved else "in the model but not in the file"
        raise LopsidedError(
            f"the adapter {folder} does not fit the base {base}: {len(saved)} layers saved, {len(adapted)} in the "
            f"model, {odd} is {where}; name the base that it was trained on"
        )


def _check_low_rank(model: PeftModel, before: dict[str, str], folder: Path) -> None:
    """Raise unless what PEFT's layers compute is W0·x + s·B·A·x, with W0 as it was in the base."""
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if not isinstance(module, Linear) or module.lora_variant:
            what = ", ".join(type(v).__name__ for v in module.lora_variant.values()) or type(module).__name__
            raise LopsidedError(
                f"{folder}: {name} has an adapter of kind {what}, which adds no plain product to a linear layer; "
                "expected plain LoRA on linear layers; diagnose another adapter"
            )
        if name in before and fingerprint(module.get_base_layer().weight) != before[name]:
            raise LopsidedError(
                f"{folder}: loading changed the base weight of {name}, as PiSSA and its like do; expected an adapter "
                "on the original weights; save it with path_initial_model_for_weight_conversion"
            )
