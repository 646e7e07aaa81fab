"""Collators: make batches of tensors from encoded rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import BatchEncoding, DataCollatorForSeq2Seq, DataCollatorWithPadding

from lopsided.models.tokenizer import ensure_pad_token
from lopsided.tasks.encoders import IGNORED

Row = dict[str, Any]
Collate = Callable[[Sequence[Row]], Any]

# What a batch of choices has for the reader alone, see `Options`.
OPTION_LABELS, QUESTION, RIGHT = "option_labels", "question", "right"


def padded(tokenizer: Any) -> Collate:
    """Return the collator of rows with one label each."""
    ensure_pad_token(tokenizer)
    collate: Collate = DataCollatorWithPadding(tokenizer)
    return collate


def padded_with_labels(tokenizer: Any) -> Collate:
    """Return the collator of rows with a label per token."""
    ensure_pad_token(tokenizer)
    collate: Collate = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=IGNORED)
    return collate


class Images:
    """Collate rows with an image and a label into a batch, with the model's image processor.

    Args:
        processor: of the model.

    Shapes:
        n rows -> pixel_values (n, 3, height, width), labels (n,).
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[Row]) -> BatchEncoding:
        """Return the batch."""
        # Grey and transparent images, too: the processor's means are those of three colours.
        images = [row["image"].convert("RGB") for row in rows]
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return BatchEncoding({"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])})


class RightOptions:
    """Collate rows with several options into a batch of the right options, to train on.

    Args:
        tokenizer: the one that encoded them.

    Shapes:
        n rows -> input_ids, attention_mask, labels of (n, T).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._pad = padded_with_labels(tokenizer)

    def __call__(self, rows: Sequence[Row]) -> Any:
        """Return the batch."""
        return self._pad([{name: row[name] for name in ("input_ids", "attention_mask", "labels")} for row in rows])


class Options:
    """Collate rows with several options into a batch of all options, to choose one per row.

    Only the right option has labels, so the model's loss is the one that is trained. `option_labels` has those of every
    option, `question` says which row an option belongs to, `right` which option of a row is right.

    Args:
        tokenizer: the one that encoded them.

    Shapes:
        n rows with N options in all -> input_ids, attention_mask, labels, option_labels of (N, T); question (N,);
        right (n,).
    """

    def __init__(self, tokenizer: Any) -> None:
        self._pad = padded_with_labels(tokenizer)

    def __call__(self, rows: Sequence[Row]) -> Any:
        """Return the batch."""
        sequences, questions, is_right = [], [], []
        for question, row in enumerate(rows):
            for number, option in enumerate(row["option_ids"]):
                ids = [*row["prompt_ids"], *option]
                labels = [IGNORED] * len(row["prompt_ids"]) + list(option)
                sequences.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
                questions.append(question)
                is_right.append(number == row["right"])
        batch = self._pad(sequences)
        batch[OPTION_LABELS] = batch["labels"]
        batch["labels"] = batch["labels"].masked_fill(~torch.tensor(is_right)[:, None], IGNORED)
        batch[QUESTION] = torch.tensor(questions)
        batch[RIGHT] = torch.tensor([row["right"] for row in rows])
        return batch
