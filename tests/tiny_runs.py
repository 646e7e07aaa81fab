"""Tiny models and tasks: one word in each text decides its label, so that a few steps of training show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from lopsided import METHODS
from lopsided.runs import TrainConfig

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
FILLER = ("river", "stone", "cloud", "lamp", "chair", "music", "paper", "window")
DECIDING = {"awful": 0, "good": 1}
ANSWERS = {"awful": "it sank", "good": "it rose"}
VOCABULARY = (*SPECIAL, *FILLER, *DECIDING, "it", "sank", "rose")
SIZES = {"train": 64, "validation": 32, "test": 40}

# The shapes (d_out, d_in) of the linear layers of `bert`, its head left out, and the numbers in its head.
BERT_LAYERS = 2 * (4 * [(32, 32)] + [(64, 32), (32, 64)]) + [(32, 32)]
BERT_HEAD = 32 * 2 + 2

MakeRun = Callable[..., tuple[Path, dict[str, Any]]]


def word_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """One id a word; the template adds the special ones."""
    ids = {token: i for i, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single=template, pair=f"{template} $B:1 [SEP]:1", special_tokens=[(t, ids[t]) for t in ("[CLS]", "[SEP]")]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[SEP]", model_max_length=128, **names)


def save_model(folder: Path, kind: Any, config: Any, template: str) -> str:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    word_tokenizer(template).save_pretrained(folder)
    return str(folder)


def sentence(generator: np.random.RandomState) -> tuple[str, str]:
    """A text of five words, and the one that decides."""
    words = list(generator.choice(FILLER, size=4))
    deciding = str(generator.choice(list(DECIDING)))
    words.insert(generator.randint(5), deciding)
    return " ".join(words), deciding


def write_task(folder: Path, row: Callable[[str, str], dict[str, Any]], sizes: dict[str, int] = SIZES) -> str:
    generator = np.random.RandomState(0)
    for split, size in sizes.items():
        rows = [json.dumps(row(*sentence(generator))) for _ in range(size)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return str(folder)


def tiny_config(out: Path, **options: Any) -> TrainConfig:
    """A run of 30 steps, evaluated and saved after 8, 16, 24 and 30."""
    defaults = {"steps": 30, "batch_size": 16, "rank": 4, "lr": 2e-2, "max_length": 16}
    return TrainConfig(**{**defaults, **options}, out=out)


def whole_record(**sections: Any) -> dict[str, Any]:
    """A finished run's record, with the least that every section holds."""
    figures = {"score": 0.5, "se": 0.1, "loss": 0.6, "rows": 10}
    return {
        "schema": 1,
        "status": "finished",
        "config": {"seed": 0},
        "method": METHODS["cla"].parts(),
        "versions": {},
        "machine": {},
        "model": {"name": "some", "type": "bert", "parameters": 1},
        "task": {
            "name": "some",
            "kind": "classification",
            "labels": ["0", "1"],
            "metric": {"name": "accuracy", "greater_is_better": True},
            "rows": {"train": 10, "validation": 10, "test": 10},
            "out_of_domain": [],
            "note": "",
        },
        "steps": 1,
        "learning_rate": 1.0,
        "trained_parameters": 1,
        "metrics": {"test": figures},
        "generalization_error": {"value": 0.1, "se": 0.1},
        "history": [],
        "timings": {"median_ms": 1.0, "se_ms": 0.1, "steps": 1},
        "kept_bytes": 1,
        "adapter_bytes": 1,
        "chain": None,
        **sections,
    }


class PowerCut(Exception):
    """Of no kind that a run knows how to record."""


class Cut(TrainerCallback):
    """Ends the run after a step, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise PowerCut
