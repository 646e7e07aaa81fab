"""Rows as token ids, and the collator that pads them.

The ids are lists without padding: the collator pads each batch to its own longest row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

from lopsided.errors import LopsidedError
from lopsided.models.tokenizer import ensure_pad_token
from lopsided.tasks.chat import spoken_ids, template_of, written_out
from lopsided.tasks.task import Task

SEPARATOR = "\n"
IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedTask:
    """A task's rows as `input_ids`, `attention_mask`, `labels` (and whatever else the tokenizer returns).

    Args:
        splits: train, validation and test.
        out_of_domain: the test splits of other domains, by name.
        how: in words, what depends on the tokenizer: how conversations are written, how long texts are cut; or "".
    """

    splits: Mapping[str, Dataset]
    out_of_domain: Mapping[str, Dataset]
    how: str = ""


def encode(task: Task, tokenizer: Any, *, max_length: int = 128, seq2seq: bool = False) -> EncodedTask:
    """Tokenize all splits of a task for its kind.

    Args:
        task: what to learn.
        tokenizer: of the model that learns it.
        max_length: the largest number of ids per row. Text pairs lose the end of their longer half; prompts of
            a causal model lose their start; completions lose their end, and only when the completion
            alone is too long; conversations lose their end. Text alone loses nothing: it is cut into pieces.
        seq2seq: whether the model is an encoder-decoder; read only for generation.

    Shapes:
        classification, regression: labels is one int or float per row.
        generation, causal: input_ids = prompt, separator, completion, eos; labels are the same ids
        with -100 on prompt and separator.
        generation, encoder-decoder: input_ids are the prompt's, labels the completion's.
        conversations: input_ids as the chat template writes them (see `chat`); labels are the same ids with -100
        outside the assistant's turns.
        text alone: input_ids = text, eos, in rows of at most max_length, each of which begins with the last id of the
        row before, so that every id but the first is predicted once; labels are the same ids.

    Raises:
        LopsidedError: if max_length does not fit the tokenizer or leaves nothing to learn of a conversation, generation
            lacks an eos token, or an encoder-decoder is to learn anything but completions.
    """
    if not 8 <= max_length <= tokenizer.model_max_length:
        raise LopsidedError(
            f"max_length must lie between 8 and the tokenizer's limit: max_length={max_length}, "
            f"limit={tokenizer.model_max_length}; choose a value in between"
        )
    form = next(name for name in ("messages", "prompt", "text") if name in task.splits["train"].column_names)
    encode_rows, how = _encoder(task, tokenizer, form, seq2seq, max_length)

    def encoded(parts: Mapping[str, Dataset]) -> dict[str, Dataset]:
        return {
            split: Dataset.from_dict(encode_rows(rows, tokenizer, max_length, f"task {task.name}: {split}"))
            for split, rows in parts.items()
        }

    return EncodedTask(splits=encoded(task.splits), out_of_domain=encoded(task.out_of_domain), how=how)


def _encoder(
    task: Task, tokenizer: Any, form: str, seq2seq: bool, max_length: int
) -> tuple[Callable[..., dict[str, list[Any]]], str]:
    """Return the function that encodes rows of this form, and the text of `EncodedTask.how`."""
    if task.kind != "generation":
        return _encode_text, ""
    if seq2seq and form != "prompt":
        raise LopsidedError(
            f"task {task.name} has {form} alone: expected a causal model; received an encoder-decoder, which needs "
            "prompt and completion; use another model, or write the rows so"
        )
    if seq2seq:
        return _encode_seq2seq, ""
    if tokenizer.eos_token_id is None:
        raise LopsidedError(
            f"task {task.name} is generation: expected a tokenizer with an eos token; received "
            f"{type(tokenizer).__name__} without one; use a causal or an encoder-decoder model"
        )
    if form == "prompt":
        return _encode_causal, ""
    if form == "text":
        return _encode_pieces, f"every token is learned, in rows of at most {max_length}"
    plain = "with 'role:' and content on lines of their own"
    template = "by the tokenizer's chat template" if template_of(tokenizer) is None else plain
    return _encode_chat, f"written out {template}; the assistant's turns are learned"


def _encode_text(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> dict[str, list[Any]]:
    pairs = list(rows["text_pair"]) if "text_pair" in rows.column_names else None
    encoded = tokenizer(list(rows["text"]), pairs, truncation=True, max_length=max_length)
    return {**encoded, "labels": list(rows["label"])}


def encode_prompts(prompts: Sequence[str], tokenizer: Any, *, max_length: int, seq2seq: bool) -> list[list[int]]:
    """Return the ids that a model goes on from when it writes an answer, in the form that it was trained on.

    Args:
        prompts: texts of the column `prompt`.
        tokenizer: of the model.
        max_length: the most ids of a prompt; a causal model's lose their start, as in training.
        seq2seq: whether the model is an encoder-decoder.
    """
    if seq2seq:
        ids: list[list[int]] = tokenizer(list(prompts), truncation=True, max_length=max_length)["input_ids"]
        return ids
    start = _start(tokenizer)
    return [start + head[-(max_length - len(start)) :] for head in _heads(prompts, tokenizer)]


def _heads(prompts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    heads: list[list[int]] = tokenizer([text + SEPARATOR for text in prompts], add_special_tokens=False)["input_ids"]
    return heads


def _encode_seq2seq(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> dict[str, list[Any]]:
    encoded = tokenizer(list(rows["prompt"]), truncation=True, max_length=max_length)
    targets = tokenizer(text_target=list(rows["completion"]), truncation=True, max_length=max_length)
    return {**encoded, "labels": targets["input_ids"]}


def _encode_causal(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> dict[str, list[Any]]:
    start = _start(tokenizer)
    # The two parts are tokenized separately, so that no token spans the border between them.
    heads = _heads(rows["prompt"], tokenizer)
    tails = tokenizer(list(rows["completion"]), add_special_tokens=False)["input_ids"]
    ids, labels = [], []
    for head, tail in zip(heads, tails):
        # One prompt token stays, whatever the length: without it nothing would predict the first token of the
        # completion, which would not count in the loss.
        tail = [*tail, tokenizer.eos_token_id][: max_length - len(start) - 1]
        head = start + head[-(max_length - len(start) - len(tail)) :]
        ids.append(head + tail)
        labels.append([IGNORED] * len(head) + tail)
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": labels}


def _start(tokenizer: Any) -> list[int]:
    """Return the bos token with which some tokenizers (Llama's) begin every text; others (GPT-2's) have none there."""
    return [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id][:1]


def _encode_pieces(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> dict[str, list[Any]]:
    start = _start(tokenizer)
    ids = []
    for text in tokenizer(list(rows["text"]), add_special_tokens=False)["input_ids"]:
        whole = [*start, *text, tokenizer.eos_token_id]
        # A row's first id is not predicted, so each row repeats the last id of the row before.
        ids += [whole[first : first + max_length] for first in range(0, max(1, len(whole) - 1), max_length - 1)]
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": [list(row) for row in ids]}


def _encode_chat(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> dict[str, list[Any]]:
    # The tokenizer's own template writes the bos token if the model wants one.
    start = [] if template_of(tokenizer) is None else _start(tokenizer)
    texts = [written_out(tokenizer, turns, f"{where} row {i}") for i, turns in enumerate(rows["messages"])]
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for row, is_spoken in spoken_ids(tokenizer, [text for text, _ in texts], [spans for _, spans in texts]):
        row_ids = [*start, *row][:max_length]
        learned = [*([False] * len(start)), *is_spoken][:max_length]
        if not any(learned[1:]):
            raise LopsidedError(
                f"{where} row {len(ids)}: expected words of the assistant within max_length={max_length} tokens; the "
                f"conversation has {len(start) + len(row)}, and the assistant's begin later; raise --max-length, or "
                "take the row out"
            )
        ids.append(row_ids)
        labels.append([token if is_learned else IGNORED for token, is_learned in zip(row_ids, learned)])
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": labels}


def collator(task: Task, tokenizer: Any) -> Any:
    """Return the collator that pads a list of encoded rows to one batch of tensors.

    Causal and encoder-decoder rows are padded alike: inputs with the pad token and labels with -100.

    Args:
        task: what the rows are of.
        tokenizer: the one that encoded them; gets a pad token if it has none.
    """
    ensure_pad_token(tokenizer)
    if task.kind == "generation":
        return DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=IGNORED)
    return DataCollatorWithPadding(tokenizer)
