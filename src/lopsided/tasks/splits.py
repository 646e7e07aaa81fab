"""Cutting of rows into splits by a hash of their text: stable, and independent of the order of the file.

Rows with the same text fall into the same split, so no text that a model trained on is in its test split.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.tasks.task import SPLITS, Task

# Not an option: studies that share a task or a size share the rows.
FIXED_SEED = 0


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


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A split that is cut from another one at random, by a fixed seed: the same rows for every run.

    Args:
        source: the split that loses rows.
        target: the split that they become.
        share: the fraction of the source's rows that it loses.
        by_class: whether each class loses that fraction.
    """

    source: str = "train"
    target: str = "validation"
    share: float
    by_class: bool = False

    def rows(self, keys: Sequence[Hashable], classes: Sequence[Hashable]) -> tuple[list[int], list[int]]:
        """Return the row numbers that the source keeps, and those that it loses, in their order.

        Args:
            keys: one per row; rows with the same key stay together, so that nothing that is tested was learned.
            classes: one per row; read if `by_class`, of the first row of each key.

        Example:
            >>> Cut(share=0.5).rows(list("abcd"), [0] * 4)
            ([0, 1], [2, 3])
        """
        first: dict[Hashable, Hashable] = {}
        for key, label in zip(keys, classes):
            first.setdefault(key, label if self.by_class else None)
        groups: dict[Hashable, list[Hashable]] = {}
        for key, label in first.items():
            groups.setdefault(label, []).append(key)
        draw = np.random.RandomState(FIXED_SEED)
        lost: set[Hashable] = set()
        # Sorted, so that the draw does not depend on which class comes first.
        for label in sorted(groups, key=str):
            members = groups[label]
            lost.update(members[i] for i in draw.permutation(len(members))[: round(self.share * len(members))])
        kept = [i for i, key in enumerate(keys) if key not in lost]
        return kept, [i for i, key in enumerate(keys) if key in lost]


def unseen_classes(splits: Mapping[str, Mapping[str, Any] | Dataset]) -> list[str]:
    """Return a note for each split that asks for classes of which train has no row.

    Args:
        splits: by split, its columns, of which `label` is read.
    """
    seen = set(splits["train"]["label"])
    counts = {split: sum(label not in seen for label in splits[split]["label"]) for split in SPLITS[1:]}
    return [f"{count} rows of {split} have a class without a training row" for split, count in counts.items() if count]


def with_train_size(task: Task, size: int | None) -> Task:
    """Return the task with at most `size` rows of train, drawn at random by a fixed seed and kept in their order.

    Classes keep their indices, those that no row was drawn of included. The note says how many rows were taken.
    """
    train = task.splits["train"]
    if size is None or size >= len(train):
        return task
    # RandomState's stream is frozen, so that the same rows are drawn by every version of NumPy.
    rows = np.sort(np.random.RandomState(FIXED_SEED).permutation(len(train))[:size])
    note = f"{size:,} of {len(train):,} training rows, drawn by a fixed seed"
    drawn = dataclasses.replace(task, splits={**task.splits, "train": train.select(rows)})
    unseen = unseen_classes(drawn.splits) if drawn.labels else []
    notes = [task.note, note, *(text for text in unseen if text not in task.note)]
    return dataclasses.replace(drawn, note="; ".join(filter(None, notes)))
