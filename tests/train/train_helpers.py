"""Tiny models and tasks: one word in each text decides its label, so that a few steps of training show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)

from lopsided.train import TrainConfig, train

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


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices of 32 columns are slower on two threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random BERT: 2 layers, 32 wide, with the dropout that BERT has."""
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    return save_model(tmp_path_factory.mktemp("bert"), BertModel, config, "[CLS] $A [SEP]")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return save_model(tmp_path_factory.mktemp("llama"), LlamaForCausalLM, config, "$A")


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = T5Config(
        vocab_size=len(VOCABULARY),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )
    return save_model(tmp_path_factory.mktemp("t5"), T5ForConditionalGeneration, config, "$A [SEP]")


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


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Classification."""
    return write_task(tmp_path_factory.mktemp("words"), lambda text, w: {"text": text, "label": DECIDING[w]})


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sentence pairs, with labels in words; the second sentence decides."""
    return write_task(
        tmp_path_factory.mktemp("pairs"),
        lambda text, w: {"sentence1": "river stone", "sentence2": text, "label": ("no", "yes")[DECIDING[w]]},
    )


@pytest.fixture(scope="session")
def scores(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Regression."""
    return write_task(tmp_path_factory.mktemp("scores"), lambda text, w: {"text": text, "label": DECIDING[w] - 0.5})


@pytest.fixture(scope="session")
def phrases(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Generation."""
    return write_task(tmp_path_factory.mktemp("phrases"), lambda text, w: {"prompt": text, "completion": ANSWERS[w]})


def tiny_config(out: Path, **options: Any) -> TrainConfig:
    """A run of 30 steps, evaluated and saved after 8, 16, 24 and 30."""
    defaults = {"steps": 30, "batch_size": 16, "rank": 4, "lr": 2e-2, "max_length": 16}
    return TrainConfig(**{**defaults, **options}, out=out)


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Makes a finished run, each different one once a session: its folder and its record."""
    made: dict[str, tuple[Path, dict[str, Any]]] = {}

    def run(**options: Any) -> tuple[Path, dict[str, Any]]:
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            config = tiny_config(tmp_path_factory.mktemp("run") / "out", **options)
            made[key] = config.out, train(config)
        return made[key]

    return run


class PowerCut(Exception):
    """Of no kind that a run knows how to record."""


class Cut(TrainerCallback):
    """Ends the run after a step, as a power cut would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise PowerCut
