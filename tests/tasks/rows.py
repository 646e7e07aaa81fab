"""A tokenizer of single characters, and tasks of a few rows."""

from __future__ import annotations

import string

from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lopsided.tasks import Task, get_metric


def character_tokenizer(*, bos: bool = False, pad: bool = True, eos: bool = True) -> PreTrainedTokenizerFast:
    """One id a character, so that ids can be read back as text."""
    special = ["<unk>", "<eos>", "<bos>", "<pad>"]
    vocabulary = {token: i for i, token in enumerate([*special, *string.printable])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    if bos:
        tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
        )
    names = {"unk_token": "<unk>", "bos_token": "<bos>"}
    names |= {"eos_token": "<eos>"} if eos else {}
    names |= {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def generation(*rows: tuple[str, str]) -> Task:
    part = Dataset.from_dict({"prompt": [p for p, _ in rows], "completion": [c for _, c in rows]})
    return Task(
        name="g",
        kind="generation",
        splits={"train": part, "validation": part, "test": part},
        labels=(),
        metric=get_metric("perplexity"),
        out_of_domain={"elsewhere": part},
    )


def text(kind: str, labels: list, **columns) -> Task:
    part = Dataset.from_dict({**columns, "label": labels})
    return Task(
        name="t",
        kind=kind,
        splits={"train": part, "validation": part, "test": part},
        labels=("no", "yes") if kind == "classification" else (),
        metric=get_metric("accuracy" if kind == "classification" else "pearson"),
    )
