"""Cutting of rows into splits by a hash of their text: stable, and independent of the order of the file.

Rows with the same text fall into the same split, so no text that a model trained on is in its test split.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.tasks.task import Task

# Not an option: studies that share a size share the rows.
TRAIN_SIZE_SEED = 0


def stable_hash(text: str, *, salt: str = "") -> int:
    """Return 64 bits of blake2b of the stripped text: the same on every machine and Python version.

    Example:
        >>> stable_hash(" good film ") == stable_hash("good film")
        True
    """
    digest = hashlib.blake2b(text.strip().encode("utf-8"), digest_size=8, salt=salt.encode("utf-8")[:16])
    return int.from_bytes(digest.digest(), "big")


def split_of(text: str) -> str:
    """Return "test" and "validation" for a tenth of all texts each, and "train" for the rest."""
    return {0: "test", 1: "validation"}.get(stable_hash(text) % 10, "train")


def cut(texts: Sequence[str], missing: Sequence[str], labels: Sequence[str] | None = None) -> dict[str, list[int]]:
    """Return row numbers for train and for each missing split, taken from the rows of train.

    Args:
        texts: one text per row; rows with the same text stay together.
        missing: the splits to cut, "validation" and/or "test".
        labels: one class per row. A text whose class would otherwise be in no training row stays in
            train, because a test of a class that was never seen in training measures nothing.

    Raises:
        LopsidedError: if a split would be empty.
    """
    wanted = [split_of(text) if split_of(text) in missing else "train" for text in texts]
    if labels is not None:
        in_train = {label for label, split in zip(labels, wanted) if split == "train"}
        needed = {text.strip() for text, label in zip(texts, labels) if label not in in_train}
        # By text and not by row, so that rows with the same text stay together.
        wanted = ["train" if text.strip() in needed else split for text, split in zip(texts, wanted)]
    parts = {name: [i for i, split in enumerate(wanted) if split == name] for name in ("train", *missing)}
    for name, rows in parts.items():
        if not rows:
            raise LopsidedError(
                f"cutting {', '.join(missing)} from train left {name} empty: expected about 30 different "
                f"texts or more, received {len(set(texts))}; add rows, or add {name} as a file of its own"
            )
    return parts


def with_train_size(task: Task, size: int | None) -> Task:
    """Return the task with at most `size` rows of train, drawn at random by a fixed seed and kept in their order.

    Classes keep their indices, those that no row was drawn of included. The note says how many rows were taken.
    """
    train = task.splits["train"]
    if size is None or size >= len(train):
        return task
    # RandomState's stream is frozen, so that the same rows are drawn by every version of NumPy.
    rows = np.sort(np.random.RandomState(TRAIN_SIZE_SEED).permutation(len(train))[:size])
    note = f"{size:,} of {len(train):,} training rows, drawn by a fixed seed"
    return dataclasses.replace(
        task,
        splits={**task.splits, "train": train.select(rows)},
        note="; ".join(filter(None, [task.note, note])),
    )
