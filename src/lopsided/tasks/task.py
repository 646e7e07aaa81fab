"""A task: what to learn, as three splits of rows with fixed column names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.tasks.metrics import Metric, get_metric
from lopsided.tasks.reading import Reading
from lopsided.tasks.score_functions import SCORES

SPLITS = ("train", "validation", "test")

COLUMNS = {
    "classification": ("text", "label"),
    "regression": ("text", "label"),
    "generation": ("prompt", "completion"),
}
# What generation can have instead: a conversation or text, and no other column, which could be a label.
ALONE = (["messages"], ["text"])
LISTED_CLASSES = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What to learn: rows in three splits, the classes, and the figure that counts.

    Args:
        name: as the user gave it, such as "vader/movie", "glue/mrpc" or a folder.
        kind: "classification", "regression" or "generation".
        splits: exactly "train", "validation" and "test". Classification and regression rows have
            `text`, maybe `text_pair`, and `label` (an index into `labels`, or a float for
            regression). Generation rows have `prompt` and `completion`; or `messages` alone, a list of turns with
            `role` and `content`, of which the assistant's are learned; or `text` alone, which is learned whole.
        labels: the classes' names in index order; empty unless classification.
        metric: the figure that counts.
        also: names of the scores that are recorded next to it.
        out_of_domain: test splits of other domains, by name; may be empty.
        note: one line to print next to every figure of this task, or "".
        reading: which columns of the data set the rows were read from; None for tasks that have fixed columns.

    Raises:
        LopsidedError: if splits, columns, labels or metric do not fit the kind, or a split is empty.
    """

    name: str
    kind: str
    splits: Mapping[str, Dataset]
    labels: tuple[str, ...]
    metric: Metric
    also: tuple[str, ...] = ()
    out_of_domain: Mapping[str, Dataset] = field(default_factory=dict)
    note: str = ""
    reading: Reading | None = None

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
            alone = self.kind == "generation" and rows.column_names in ALONE
            if not (set(expected) <= set(rows.column_names) or alone) or len(rows) == 0:
                other = " (or messages, or text, alone)" if self.kind == "generation" else ""
                raise LopsidedError(
                    f"task {self.name}: {split} expects columns {', '.join(expected)}{other} and a row or "
                    f"more; received columns {', '.join(rows.column_names) or 'none'} and {len(rows)} rows; "
                    "add what is missing"
                )
        if (self.kind == "classification") != (len(self.labels) >= 2):
            number = "two labels or more" if self.kind == "classification" else "no labels"
            raise LopsidedError(
                f"task {self.name}: expected {number} for {self.kind}; received {len(self.labels)} "
                f"{list(self.labels)[:5]}; check the label field of train"
            )
        for metric in (self.metric, *map(get_metric, self.also)):
            self._check_metric(metric)

    def _check_metric(self, metric: Metric) -> None:
        kinds = metric.entry.kinds
        if self.kind not in kinds:
            fitting = [name for name, score in SCORES.items() if self.kind in score.kinds]
            raise LopsidedError(
                f"metric {metric.name} is for {', '.join(kinds)}: task {self.name} is {self.kind}; "
                f"use {' or '.join(fitting)}"
            )
        columns = self.splits["train"].column_names
        if metric.entry.reads_answers and "prompt" not in columns:
            raise LopsidedError(
                f"metric {metric.name} reads answers to prompts: task {self.name} expected columns prompt and "
                f"completion; received {', '.join(columns)} alone; use perplexity, or write the rows so"
            )

    @property
    def described(self) -> str:
        """How the rows are read, in one line; "" for tasks that have fixed columns."""
        if self.reading is None:
            return ""
        if self.kind != "classification":
            return f"{self.kind}: {self.reading}"
        listed = ", ".join(self.labels[:LISTED_CLASSES]) + (", ..." if len(self.labels) > LISTED_CLASSES else "")
        return f"{self.kind} into {len(self.labels)} classes ({listed}): {self.reading}"
