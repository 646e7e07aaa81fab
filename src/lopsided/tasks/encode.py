"""Rows to token ids, and the collator that pads them.

Lists without padding: a collator pads each batch to its own longest row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

from lopsided.errors import LopsidedError
from lopsided.tasks.task import Task

SEPARATOR = "\n"
IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTask:
    """A task's rows as `input_ids`, `attention_mask`, `labels` (and what else the tokenizer returns)."""

    splits: Mapping[str, Dataset]
    out_of_domain: Mapping[str, Dataset]


def encode(task: Task, tokenizer: Any, *, max_length: int = 128, seq2seq: bool = False) -> EncodedTask:
    """All splits of a task, tokenized for its kind.

    Args:
        task: what to learn.
        tokenizer: of the model that learns it.
        max_length: the most ids a row keeps. Text pairs lose the end of their longer half; prompts of
            a causal model lose their start; completions lose their end, and only when the completion
            alone is too long.
        seq2seq: whether the model is an encoder-decoder; read only for generation.

    Shapes:
        classification, regression: labels is one int or float a row.
        generation, causal: input_ids = prompt, separator, completion, eos; labels are the same ids
        with -100 on prompt and separator.
        generation, encoder-decoder: input_ids are the prompt's, labels the completion's.

    Raises:
        LopsidedError: if max_length does not fit the tokenizer, or generation lacks an eos token.
    """
    if not 8 <= max_length <= tokenizer.model_max_length:
        raise LopsidedError(
            f"max_length must lie between 8 and the tokenizer's limit: max_length={max_length}, "
            f"limit={tokenizer.model_max_length}; choose a value in between"
        )
    if task.kind != "generation":
        encode_rows = _encode_text
    elif seq2seq:
        encode_rows = _encode_seq2seq
    else:
        encode_rows = _encode_causal
        if tokenizer.eos_token_id is None:
            raise LopsidedError(
                f"task {task.name} is generation: expected a tokenizer with an eos token; received "
                f"{type(tokenizer).__name__} without one; use a causal or an encoder-decoder model"
            )
    return EncodedTask(
        splits={k: Dataset.from_dict(encode_rows(v, tokenizer, max_length)) for k, v in task.splits.items()},
        out_of_domain={
            k: Dataset.from_dict(encode_rows(v, tokenizer, max_length)) for k, v in task.out_of_domain.items()
        },
    )


def _encode_text(rows: Dataset, tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
    pairs = list(rows["text_pair"]) if "text_pair" in rows.column_names else None
    encoded = tokenizer(list(rows["text"]), pairs, truncation=True, max_length=max_length)
    return {**encoded, "labels": list(rows["label"])}


def _encode_seq2seq(rows: Dataset, tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
    encoded = tokenizer(list(rows["prompt"]), truncation=True, max_length=max_length)
    targets = tokenizer(text_target=list(rows["completion"]), truncation=True, max_length=max_length)
    return {**encoded, "labels": targets["input_ids"]}


def _encode_causal(rows: Dataset, tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
    # Some tokenizers (Llama's) open every text with a bos token, others (GPT-2's) with nothing.
    start = [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id][:1]
    # The two parts are tokenized apart, so that no token spans the border between them.
    heads = tokenizer([text + SEPARATOR for text in rows["prompt"]], add_special_tokens=False)["input_ids"]
    tails = tokenizer(list(rows["completion"]), add_special_tokens=False)["input_ids"]
    ids, labels = [], []
    for head, tail in zip(heads, tails):
        # One prompt token stays, whatever the length: without it the first completion token would
        # have nothing to be predicted from, and would drop out of the loss.
        tail = [*tail, tokenizer.eos_token_id][: max_length - len(start) - 1]
        head = start + head[-(max_length - len(start) - len(tail)) :]
        ids.append(head + tail)
        labels.append([IGNORED] * len(head) + tail)
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": labels}


def ensure_pad_token(tokenizer: Any) -> None:
    """Lets the eos token pad where a tokenizer (GPT-2's, Llama's) has no pad token.

    Raises:
        LopsidedError: if there is no eos token either.
    """
    if tokenizer.pad_token_id is not None:
        return
    if tokenizer.eos_token_id is None:
        raise LopsidedError(
            f"expected a tokenizer with a pad or an eos token; received {type(tokenizer).__name__} "
            "with neither; set tokenizer.pad_token"
        )
    tokenizer.pad_token = tokenizer.eos_token


def collator(task: Task, tokenizer: Any, *, seq2seq: bool = False) -> Any:
    """What pads a list of encoded rows to one batch of tensors.

    Args:
        seq2seq: kept beside `encode`'s, which it must equal. Causal and encoder-decoder rows pad
            alike: inputs with the pad token, labels with -100.
    """
    ensure_pad_token(tokenizer)
    if task.kind == "generation":
        return DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=IGNORED)
    return DataCollatorWithPadding(tokenizer)
