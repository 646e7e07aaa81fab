"""Rows of a data set as a model reads them: token ids as lists without padding, or images as they are stored.

Each encoder takes `(rows, processor, max_length, where)`: rows of a split, the model's tokenizer or image processor,
the most ids per row, and the split's place for errors. `encode.encode` says what each kind's rows become.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.tasks.chat import spoken_ids, template_of, written_out

SEPARATOR = "\n"
IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What decides how a task's rows are encoded, besides its kind.

    Args:
        task: its name, for errors.
        form: the column that says what the rows are: "text", "image", "prompt", "messages" or "options".
        processor: the model's tokenizer, or its image processor.
        seq2seq: whether the model is an encoder-decoder.
        max_length: the most ids per row.
    """

    task: str
    form: str
    processor: Any
    seq2seq: bool
    max_length: int


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How rows are encoded.

    Args:
        rows: encodes those of a split.
        how: in words, what depends on the model; or "".
    """

    rows: Callable[[Dataset, Any, int, str], Dataset]
    how: str = ""


def labelled(wanted: Wanted) -> Encoding:
    """Return how texts, pairs of texts and images with a label are encoded."""
    return Encoding(rows=_encode_images if wanted.form == "image" else _encode_text)


def written(wanted: Wanted) -> Encoding:
    """Return how texts that are to be written are encoded: completions, conversations, or text alone.

    Raises:
        LopsidedError: if a causal model's tokenizer has no eos token, or an encoder-decoder is to learn anything but
            completions.
    """
    if wanted.seq2seq and wanted.form != "prompt":
        raise LopsidedError(
            f"task {wanted.task} has {wanted.form} alone: expected a causal model; received an encoder-decoder, which "
            "needs prompt and completion; use another model, or rows with these columns"
        )
    if wanted.seq2seq:
        return Encoding(rows=_encode_seq2seq)
    _check_eos(wanted, "generation")
    if wanted.form == "prompt":
        return Encoding(rows=_encode_causal)
    if wanted.form == "text":
        return Encoding(rows=_encode_pieces, how=f"every token is learned, in rows of at most {wanted.max_length}")
    plain = "with 'role:' and content on lines of their own"
    template = "by the tokenizer's chat template" if template_of(wanted.processor) is None else plain
    return Encoding(rows=_encode_chat, how=f"written out {template}; the assistant's turns are learned")


def chosen(wanted: Wanted) -> Encoding:
    """Return how prompts with several options are encoded, of which a causal model chooses one.

    Raises:
        LopsidedError: if the model is an encoder-decoder, or its tokenizer has no eos token.
    """
    if wanted.seq2seq:
        raise LopsidedError(
            f"task {wanted.task} is choice: expected a causal model; received an encoder-decoder; use another model"
        )
    _check_eos(wanted, "choice")
    return Encoding(rows=_encode_options, how="the option with the largest mean log-likelihood per token is the answer")


def _check_eos(wanted: Wanted, kind: str) -> None:
    if wanted.processor.eos_token_id is None:
        raise LopsidedError(
            f"task {wanted.task} is {kind}: expected a tokenizer with an eos token; received "
            f"{type(wanted.processor).__name__} without one; use a causal or an encoder-decoder model"
        )


def _encode_text(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> Dataset:
    pairs = list(rows["text_pair"]) if "text_pair" in rows.column_names else None
    encoded = tokenizer(list(rows["text"]), pairs, truncation=True, max_length=max_length)
    return Dataset.from_dict({**encoded, "labels": list(rows["label"])})


def _encode_images(rows: Dataset, processor: Any, max_length: int, where: str) -> Dataset:
    # As they are stored: a row is decoded when it is read, so that no decoded copy of a data set is in memory.
    return rows.select_columns(["image", "label"]).rename_column("label", "labels")


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


def _encode_seq2seq(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> Dataset:
    encoded = tokenizer(list(rows["prompt"]), truncation=True, max_length=max_length)
    targets = tokenizer(text_target=list(rows["completion"]), truncation=True, max_length=max_length)
    return Dataset.from_dict({**encoded, "labels": targets["input_ids"]})


def _encode_causal(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> Dataset:
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
    return _tokens(ids, labels)


def _start(tokenizer: Any) -> list[int]:
    """Return the bos token with which some tokenizers (Llama's) begin every text; others (GPT-2's) have none there."""
    return [i for i in tokenizer("")["input_ids"] if i == tokenizer.bos_token_id][:1]


def _encode_pieces(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> Dataset:
    start = _start(tokenizer)
    ids = []
    for text in tokenizer(list(rows["text"]), add_special_tokens=False)["input_ids"]:
        whole = [*start, *text, tokenizer.eos_token_id]
        # A row's first id is not predicted, so each row repeats the last id of the row before.
        ids += [whole[first : first + max_length] for first in range(0, max(1, len(whole) - 1), max_length - 1)]
    return _tokens(ids, [list(row) for row in ids])


def _encode_chat(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> Dataset:
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
    return _tokens(ids, labels)


def _encode_options(rows: Dataset, tokenizer: Any, max_length: int, where: str) -> Dataset:
    start = _start(tokenizer)
    prompts = _heads(rows["prompt"], tokenizer)
    columns: dict[str, list[Any]] = {name: [] for name in ("input_ids", "labels", "prompt_ids", "option_ids", "right")}
    for i, (prompt, options, right) in enumerate(zip(prompts, rows["options"], rows["label"])):
        if not 0 <= right < len(options) or len(options) < 2:
            raise LopsidedError(
                f"{where} row {i}: expected two options or more and the index of the right one; received "
                f"{len(options)} options and label {right}; correct the row"
            )
        # As `_encode_causal` has it: one prompt token stays, so that something predicts an option's first token.
        room = max_length - len(start) - 1
        ids = tokenizer(list(options), add_special_tokens=False)["input_ids"]
        tails = [[*option, tokenizer.eos_token_id][:room] for option in ids]
        # The longest option decides what is cut, so that all options follow the same prompt.
        head = start + prompt[-(max_length - len(start) - max(map(len, tails))) :]
        for name, value in {
            "input_ids": head + tails[right],
            "labels": [IGNORED] * len(head) + tails[right],
            "prompt_ids": head,
            "option_ids": tails,
            "right": right,
        }.items():
            columns[name].append(value)
    masks = [[1] * len(row) for row in columns["input_ids"]]
    return Dataset.from_dict({**columns, "attention_mask": masks})


def _tokens(ids: list[list[int]], labels: list[list[int]]) -> Dataset:
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": labels})
