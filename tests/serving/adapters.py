"""Trained tiny adapters in folders, next to their bases, and what stock PEFT makes of an export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForSequenceClassification

import lopsided
from lopsided import METHODS
from tests import tiny

BUILDS = {
    "bert": (tiny.bert, AutoModelForSequenceClassification),
    "gpt2": (tiny.gpt2, AutoModelForCausalLM),
    "llama": (tiny.llama, AutoModelForCausalLM),
    "vit": (tiny.vit, AutoModelForImageClassification),
}

# In a process that cannot import this library: every folder that is named, on its base.
STOCK = """
import sys
sys.modules["lopsided"] = None  # importing it raises from here on
import torch, transformers
from peft import PeftModel
loader, base, ids, *folders = sys.argv[1:]
for folder in folders:
    model = getattr(transformers, loader).from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, folder).eval()
    with torch.no_grad():
        torch.save(adapted(**torch.load(ids)).logits, folder + ".logits")
assert not [name for name in sys.modules if name.startswith("lopsided.")]
"""


def base_of(kind: str, folder: Path) -> Path:
    """A base model's folder."""
    build, _ = BUILDS[kind]
    if not (folder / kind).exists():
        build().save_pretrained(folder / kind)
    return folder / kind


def load_base(kind: str, folder: Path):
    """The base, as whoever trains on it loads it."""
    return BUILDS[kind][1].from_pretrained(folder).eval()


def trained(name, kind: str, folder: Path, *, links: int = 3, target_modules="all-linear", r: int = 2, **options):
    """A saved adapter of ours that has moved, at its last link, and the logits of its model."""
    method = METHODS[name] if isinstance(name, str) else name
    chained = method.chain is not None
    base = load_base(kind, base_of(kind, folder))
    model = lopsided.adapt(
        base, method, r=r, target_modules=target_modules, links=links if chained else None, **options
    )
    optimizer = tiny.train_a_little(model)
    for _ in range(links - 1 if chained else 0):
        lopsided.advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    saved = folder / f"adapter-{method.name}-{kind}"
    model.eval().save_pretrained(saved)
    return saved, tiny.logits(model)


def stock_lora(kind: str, folder: Path, name: str = "stock", **options):
    """A saved adapter of PEFT's own LoRA that has moved, and the logits of its model."""
    fields = {"r": 4, "target_modules": ["q_proj", "v_proj"] if kind == "llama" else ["query", "value"]}
    config = LoraConfig(**{**fields, **options}, task_type="CAUSAL_LM" if kind == "llama" else "SEQ_CLS")
    model = get_peft_model(load_base(kind, base_of(kind, folder)), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.eval().save_pretrained(folder / name)
    return folder / name, tiny.logits(model)


def with_peft(kind: str, base: Path, exported: Path) -> torch.Tensor:
    """The logits of an exported adapter on its base, by PEFT in this process."""
    return tiny.logits(PeftModel.from_pretrained(load_base(kind, base), str(exported)).eval())


def in_stock_peft(kind: str, base: Path, *folders: Path) -> list[torch.Tensor]:
    """The logits of exported adapters, each on its base, in a process without this library."""
    ids = base.parent / f"{kind}.ids"
    torch.save(tiny.inputs(BUILDS[kind][0]()), ids)
    command = [sys.executable, "-c", STOCK, BUILDS[kind][1].__name__, base, ids, *folders]
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(f"{folder}.logits") for folder in folders]
