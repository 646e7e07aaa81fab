"""Entries of `TASKS` whose rows are text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset

from lopsided.errors import LopsidedError, suggestion
from lopsided.tasks.local import read_jsonl
from lopsided.tasks.metrics import get_metric
from lopsided.tasks.options import TaskOptions
from lopsided.tasks.prompt_form import WRITERS, Form
from lopsided.tasks.reading import Row
from lopsided.tasks.splits import Cut, unseen_classes
from lopsided.tasks.task import SPLITS, Task
from lopsided.tasks.task_entry import Hub, KnownTask, check_options, download, local_folder

# A row and its place, for errors.
Placed = tuple[Row, str]


@dataclass(frozen=True, kw_only=True)
class TextEntry(KnownTask):
    """A task of text: rows of the hub, or of a folder of JSON lines, in the form that the papers give them.

    Args:
        hub: where the rows lie.
        form: how a row becomes an example; its fields are those of the local form.
        classes: their names in index order; none for other kinds.
        cuts: splits that the hub lacks.
        elsewhere: splits besides the three, for out-of-domain tests.
        trained_on: another entry of this table, of which train is taken.
    """

    hub: Hub
    form: Form
    classes: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()
    elsewhere: tuple[str, ...] = ()
    trained_on: TextEntry | None = None

    @property
    def kind(self) -> str:
        """The kind of task."""
        return self.form.kind

    @property
    def origin(self) -> str:
        """The data set's name on the hub."""
        return f"{self.trained_on.origin} for train, {self.hub}" if self.trained_on else str(self.hub)

    @property
    def shape(self) -> str:
        """The templates."""
        return "; ".join(f"{name} = {template!r}" for name, template in self.form.columns.items())

    @property
    def layout(self) -> str:
        """The files, and the fields of their lines."""
        fields = dict.fromkeys(field for fields in self.form.reading.columns.values() for field in fields)
        files = [f"{split}.jsonl" for split in (*self._own_splits, *self.elsewhere)]
        train = f" (and {self.trained_on.folder}/ with train.jsonl)" if self.trained_on else ""
        return f"{', '.join(files)} (fields {', '.join(fields)}){train}"

    @property
    def _own_splits(self) -> tuple[str, ...]:
        return SPLITS[1:] if self.trained_on else SPLITS

    def load(self, name: str, options: TaskOptions) -> Task:
        """Return the task, from the hub or from the folder of data sets.

        Raises:
            LopsidedError: if the rows cannot be found, or one of them cannot be read.
        """
        check_options(name, options)
        columns = self._columns(name, options.data, (*self._own_splits, *self.elsewhere))
        if self.trained_on:
            # Cut before train is taken, so that the same rows are learned as in the other entry.
            columns |= self.trained_on._columns(name, options.data, SPLITS[:1])
        splits = {split: Dataset.from_dict(part) for split, part in columns.items()}
        notes = self.notes(options)
        if self.kind == "classification":
            notes += unseen_classes(columns)
        return Task(
            name=name,
            kind=self.kind,
            splits={split: splits[split] for split in SPLITS},
            labels=self.classes if self.kind == "classification" else (),
            metric=get_metric(options.metric or self.metric),
            also=self.also,
            out_of_domain={f"{name}/{split}": splits[split] for split in self.elsewhere},
            note="; ".join(filter(None, notes)),
            reading=self.form.reading,
        )

    def _columns(self, name: str, data: str | None, splits: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
        rows = self._from_hub(name, splits) if data is None else self._from_folder(name, data, splits)
        examples = {split: [self._example(row, where) for row, where in part] for split, part in rows.items()}
        return {
            split: {key: [example[key] for example in part] for key in self.form.columns}
            for split, part in examples.items()
        }

    def _from_folder(self, name: str, data: str, splits: Sequence[str]) -> dict[str, list[Placed]]:
        folder = local_folder(self, name, data)
        paths = {split: folder / f"{split}.jsonl" for split in splits}
        missing = [path.name for path in paths.values() if not path.is_file()]
        if missing:
            raise LopsidedError(
                f"task {name}: expected {', '.join(path.name for path in paths.values())} in {folder}; missing "
                f"{', '.join(missing)}; add it, or leave --data out to load {self.hub} from the hub"
            )
        return {
            split: [(row, f"{path}:{number}") for number, row in enumerate(read_jsonl(path), start=1)]
            for split, path in paths.items()
        }

    def _from_hub(self, name: str, splits: Sequence[str]) -> dict[str, list[Placed]]:
        loaded = download(self, self.hub, name)
        rows = {}
        for split, theirs in self.hub.splits.items():
            if theirs not in loaded:
                raise LopsidedError(
                    f"task {name}: expected split {theirs} of {self.hub}; received {', '.join(loaded)}; pass a "
                    "folder with --data"
                )
            placed = [(row, f"{self.hub} {theirs} row {i}") for i, row in enumerate(_named(loaded[theirs]))]
            read = self.hub.read
            rows[split] = [(row if read is None else read(row), at) for row, at in placed]
        for cut in self.cuts:
            part = rows[cut.source]
            texts = [tuple(str(row.get(key)) for key in self.form.reading.inputs) for row, _ in part]
            kept, lost = cut.rows(texts, [str(row.get(self.form.columns.get("label", ""))) for row, _ in part])
            rows |= {cut.source: [part[i] for i in kept], cut.target: [part[i] for i in lost]}
        return {split: rows[split] for split in splits}

    def _example(self, row: Row, where: str) -> dict[str, Any]:
        example = self.form.example(row, where)
        if self.kind == "classification":
            example["label"] = class_index(example["label"], self.classes, where)
        elif self.kind == "choice":
            if not WRITERS["choices"].takes(example["options"]):
                raise LopsidedError(
                    f"{where}: expected a list of strings in 'options'; received {str(example['options'])[:40]!r}; "
                    "correct the row"
                )
            example["label"] = class_index(example["label"], example["options"], where)
        elif self.kind == "regression":
            example["label"] = _score(example["label"], where)
        return example


def _score(label: Any, where: str) -> float:
    if isinstance(label, bool) or not isinstance(label, (int, float)) or not math.isfinite(label):
        raise LopsidedError(f"{where}: expected a finite number in 'label'; received {label!r}; correct the row")
    return float(label)


def _named(rows: Dataset) -> list[dict[str, Any]]:
    """Return rows with the names of classes in place of the numbers that the data set declares for them."""
    declared = {name: feature for name, feature in rows.features.items() if isinstance(feature, ClassLabel)}
    named = rows.to_list()
    for row in named:
        for name, feature in declared.items():
            # -1 stands for no label, as in the tests of GLUE.
            row[name] = feature.names[row[name]] if row[name] is not None and row[name] >= 0 else None
    return named


def class_index(label: Any, classes: Sequence[str], where: str) -> int:
    """Return the index of a class that stands in a row by its index or its name.

    Raises:
        LopsidedError: if it is neither.

    Example:
        >>> class_index(1, ("no", "yes"), "row 0"), class_index("no", ("no", "yes"), "row 1")
        (1, 0)
    """
    if type(label) is int and 0 <= label < len(classes):
        return label
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    listed = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    raise LopsidedError(
        f"{where}: expected a class from 0 to {len(classes) - 1}, or its name ({listed}); received {label!r}"
        f"{suggestion(str(label), classes, 'correct the row')}"
    )
