"""Methods that start from other base weights, as PiSSA does, saved as plain LoRA on the original ones.

Notation: such a method puts W0 - s·B0·A0 in the place of W0, and trains s·B·A from B0, A0. On the original weights it
has added

    ΔW = s·(B·A - B0·A0) = s·[B, -B0]·[A; A0]

which is LoRA of rank 2r with the same s. That is what is saved: it needs neither the changed weights nor the same
singular vectors on the machine that loads it, and stock PEFT loads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from lopsided.files.untrusted import ADAPTER_WEIGHTS

PREFIX = "base_model.model."


def _layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def remember_start(model: PeftModel) -> None:
    """Keep A0 and B0 of each layer next to its factors; no checkpoint holds them, since they are made again."""
    for _, layer in _layers(model):
        for letter in ("A", "B"):
            factor = getattr(layer, f"lora_{letter}")["default"].weight
            layer.register_buffer(f"start_{letter}", factor.detach().clone(), persistent=False)


def save_converted(model: PeftModel, folder: Path) -> None:
    """Write the adapter as LoRA of rank 2r on the original weights."""
    model.save_pretrained(str(folder))
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    for name, layer in _layers(model):
        A, B = (f"{PREFIX}{name}.lora_{letter}.weight" for letter in "AB")
        tensors[A] = torch.cat([tensors[A], layer.start_A.to("cpu", tensors[A].dtype)])
        tensors[B] = torch.cat([tensors[B], -layer.start_B.to("cpu", tensors[B].dtype)], dim=1)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = PeftConfig.from_pretrained(str(folder))
    assert isinstance(config, LoraConfig)
    # alpha/r is as it was.
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, 2 * config.lora_alpha, True
    config.save_pretrained(str(folder))
