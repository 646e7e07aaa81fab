"""A task: what to learn, as three splits of rows with fixed column names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.tasks.metrics import SCORES, Metric

SPLITS = ("train", "validation", "test")

COLUMNS = {
    "classification": ("text", "label"),
    "regression": ("text", "label"),
    "generation": ("prompt", "completion"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What to learn: rows in three splits, the classes, and the figure that counts.

    Args:
        name: what the user asked for, such as "vader/movie", "glue/mrpc" or a folder.
        kind: "classification", "regression" or "generation".
        splits: exactly "train", "validation" and "test". Classification and regression rows have
            `text`, maybe `text_pair`, and `label` (an index into `labels`, or a float for
            regression). Generation rows have `prompt` and `completion`.
        labels: the classes' names in index order; empty unless classification.
        metric: the figure that counts.
        out_of_domain: more test splits, by name, from elsewhere; may be empty.
        note: one line to print beside every figure of this task, or "".

    Raises:
        LopsidedError: if splits, columns, labels or metric do not fit the kind, or a split is empty.
    """

    name: str
    kind: str
    splits: Mapping[str, Dataset]
    labels: tuple[str, ...]
    metric: Metric
    out_of_domain: Mapping[str, Dataset] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in COLUMNS:
            raise LopsidedError(
                f"task {self.name}: expected kind in {', '.join(COLUMNS)}; received '{self.kind}'; pass one of them"
            )
        if set(self.splits) != set(SPLITS):
            raise LopsidedError(
                f"task {self.name}: expected splits {', '.join(SPLITS)}; "
                f"received {', '.join(self.splits) or 'none'}; name them so"
            )
        for split, rows in {**self.splits, **self.out_of_domain}.items():
            expected = COLUMNS[self.kind]
            if not set(expected) <= set(rows.column_names) or len(rows) == 0:
                raise LopsidedError(
                    f"task {self.name}: {split} expects columns {', '.join(expected)} and a row or "
                    f"more; received columns {', '.join(rows.column_names) or 'none'} and {len(rows)} rows; "
                    "add what is missing"
                )
        if (self.kind == "classification") != (len(self.labels) >= 2):
            number = "two labels or more" if self.kind == "classification" else "no labels"
            raise LopsidedError(
                f"task {self.name}: expected {number} for {self.kind}; received {len(self.labels)} "
                f"{list(self.labels)[:5]}; check the label field of train"
            )
        kinds = SCORES[self.metric.name].kinds
        if self.kind not in kinds:
            fitting = [name for name, score in SCORES.items() if self.kind in score.kinds]
            raise LopsidedError(
                f"metric {self.metric.name} is for {', '.join(kinds)}: task {self.name} is {self.kind}; "
                f"use {' or '.join(fitting)}"
            )
