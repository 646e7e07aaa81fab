"""A task: what to learn, as three splits of rows with fixed column names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.tasks.kinds import KINDS
from lopsided.tasks.metrics import Metric, get_metric
from lopsided.tasks.reading import Reading
from lopsided.tasks.score_functions import SCORES

SPLITS = ("train", "validation", "test")
# Nobody knows what a folder's rows are a cut of.
LOCAL_NOTE = "rows and splits of a local folder: not comparable with published figures where they are cut"

# The column that says what rows give a model to read or to write; the first that they have.
FORMS = ("options", "messages", "prompt", "text", "image")
LISTED_CLASSES = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What to learn: rows in three splits, the classes, and the figure that counts.

    Args:
        name: as the user gave it, such as "vader/movie", "glue/mrpc" or a folder.
        kind: a key of `KINDS`.
        splits: exactly "train", "validation" and "test". Classification and regression rows have
            `text`, maybe `text_pair`, and `label` (an index into `labels`, or a float for
            regression); classification may have `image`, a column of `datasets.Image`, in place of text. Generation
            rows have `prompt` and `completion`; or `messages` alone, a list of turns with `role` and `content`, of
            which the assistant's are learned; or `text` alone, which is learned whole. Choice rows have `prompt`,
            `options` (two texts or more, in any number) and `label`, the index of the right one.
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
        if self.kind not in KINDS:
            raise LopsidedError(
                f"task {self.name}: expected kind in {', '.join(KINDS)}; received '{self.kind}'; pass one of them"
            )
        kind = KINDS[self.kind]
        if set(self.splits) != set(SPLITS):
            raise LopsidedError(
                f"task {self.name}: expected splits {', '.join(SPLITS)}; "
                f"received {', '.join(self.splits) or 'none'}; name them so"
            )
        for split, rows in {**self.splits, **self.out_of_domain}.items():
            if not kind.fits(rows.column_names) or len(rows) == 0:
                raise LopsidedError(
                    f"task {self.name}: {split} expects columns {kind.expected} and a row or "
                    f"more; received columns {', '.join(rows.column_names) or 'none'} and {len(rows)} rows; "
                    "add what is missing"
                )
            if _form(rows) != self.form:
                raise LopsidedError(
                    f"task {self.name}: expected {self.form} in all splits, as in train; received {_form(rows)} in "
                    f"{split}; write all of them one way"
                )
        if kind.has_classes != (len(self.labels) >= 2):
            number = "two labels or more" if kind.has_classes else "no labels"
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
        if metric.entry.further and "prompt" not in columns:
            raise LopsidedError(
                f"metric {metric.name} reads answers to prompts: task {self.name} expected columns prompt and "
                f"completion; received {', '.join(columns)} alone; use perplexity, or write the rows so"
            )

    @property
    def form(self) -> str:
        """The column that says what the rows hold, one of `FORMS`."""
        return _form(self.splits["train"])

    @property
    def modality(self) -> str:
        """What a row gives a model to read: "text" or "image"."""
        return "image" if self.form == "image" else "text"

    @property
    def described(self) -> str:
        """How the rows are read, in one line; "" for tasks that have fixed columns."""
        if self.reading is None:
            return ""
        if not KINDS[self.kind].has_classes:
            return f"{self.kind}: {self.reading}"
        listed = ", ".join(self.labels[:LISTED_CLASSES]) + (", ..." if len(self.labels) > LISTED_CLASSES else "")
        return f"{self.kind} into {len(self.labels)} classes ({listed}): {self.reading}"


def _form(rows: Dataset) -> str:
    return next(name for name in FORMS if name in rows.column_names)
