"""From cast columns to a `Task`: the kind, the classes, the missing splits, the metric."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from datasets import Dataset

from lopsided.errors import LopsidedError, suggestion
from lopsided.tasks.cast import TaskColumns
from lopsided.tasks.kinds import FILE, KINDS
from lopsided.tasks.labels import read_labels
from lopsided.tasks.metrics import get_metric
from lopsided.tasks.options import TaskOptions
from lopsided.tasks.reading import Reading, Where
from lopsided.tasks.splits import cut
from lopsided.tasks.task import SPLITS, Task


def assemble(
    name: str,
    columns: Mapping[str, TaskColumns],
    *,
    places: Mapping[str, Where],
    reading: Reading,
    options: TaskOptions,
    labels: Sequence[str] | None = None,
    note: str = "",
) -> Task:
    """Make a task from the columns of its splits; validation and test are cut from train if missing.

    Labels decide between classification and regression (see `labels`). Train defines the classes: integers in
    numerical order, strings in alphabetical order.

    Args:
        name: the task's.
        columns: by split, as `cast.cast` returns them.
        places: by split, the place of row i, for errors.
        reading: which columns they were made of.
        options: the metric, where None takes the default of the kind, and the classes to rename.
        labels: the classes in index order, where the source declares them.
        note: one line to print next to every figure of the task.

    Raises:
        LopsidedError: if labels are of mixed types or missing, or a split has a class that train lacks.
    """
    # The columns are changed below, and belong to the caller.
    columns = {split: dict(part) for split, part in columns.items()}
    rename_labels = options.rename_labels
    if "label" not in columns["train"]:
        kind = "generation"
    elif labels is not None:
        kind = "classification"
    else:
        kind, read = read_labels(
            name,
            {split: part["label"] for split, part in columns.items()},
            places,
            metric=options.metric,
            named=rename_labels or (),
        )
        for split, values in read.items():
            columns[split]["label"] = values
    has_classes = KINDS[kind].has_classes
    if rename_labels and not has_classes:
        raise LopsidedError(f"task {name}: rename_labels is for classification; received it for {kind}; leave it out")
    if rename_labels:
        _rename(name, columns, rename_labels)
        # A renamed class loses its index, so that no index is left without rows.
        labels = labels and list(dict.fromkeys(rename_labels.get(label, label) for label in labels))
    note = "; ".join(filter(None, [note, *_drop_empty(columns)]))
    columns = _with_all_splits(columns, kind)
    if has_classes:
        if labels is None:
            labels = _sorted_names(columns["train"]["label"])
        _index(name, columns, labels, places)
    return Task(
        name=name,
        kind=kind,
        splits={split: Dataset.from_dict(columns[split]) for split in SPLITS},
        labels=tuple(labels or ()) if has_classes else (),
        metric=get_metric(options.metric or KINDS[kind].metric),
        note=note,
        reading=reading,
    )


def _drop_empty(columns: dict[str, TaskColumns]) -> list[str]:
    """Leave out rows of language modelling without text, as WikiText has between paragraphs; return a note of each."""
    notes = []
    for split, part in columns.items():
        if set(part) - {FILE} == {"text"}:
            kept = [i for i, text in enumerate(part["text"]) if text.strip()]
            if empty := len(part["text"]) - len(kept):
                notes.append(f"{empty} empty rows of {split} left out")
            columns[split] = {name: [values[i] for i in kept] for name, values in part.items()}
    return notes


def _sorted_names(names: Sequence[str]) -> list[str]:
    """Return the classes in index order: integers in numerical order, strings in alphabetical order."""
    # "10" comes after "9" where every name is an integer, so class k keeps index k in 0..k-1 data.
    numeric = all(name.removeprefix("-").isdecimal() for name in names)
    # The name breaks the tie of "1" and "01": a set's order changes from process to process.
    return sorted(set(names), key=lambda name: (int(name) if numeric else 0, name))


def _rename(name: str, columns: Mapping[str, TaskColumns], names: Mapping[str, str]) -> None:
    """Write the classes' new names into the columns."""
    known = {label for part in columns.values() for label in part["label"]}
    unknown = [label for label in names if label not in known]
    if unknown:
        raise LopsidedError(
            f"task {name}: rename_labels expects labels of the data; received '{unknown[0]}'"
            f"{suggestion(unknown[0], known, 'leave it out')}"
        )
    for part in columns.values():
        part["label"] = [names.get(label, label) for label in part["label"]]


def _with_all_splits(columns: Mapping[str, TaskColumns], kind: str) -> dict[str, TaskColumns]:
    """Return all three splits, those that are missing cut from train."""
    missing = [split for split in SPLITS if split not in columns]
    if not missing:
        return dict(columns)
    train = columns["train"]
    # Rows are the same if a model reads the same text in them; of a conversation it reads all.
    texts = next(train[key] for key in ("prompt", "messages", "text") if key in train)
    texts = [text if isinstance(text, str) else json.dumps(text, sort_keys=True, allow_nan=False) for text in texts]
    parts = cut(texts, missing, train["label"] if KINDS[kind].has_classes else None)
    cuts = {split: {key: [values[i] for i in rows] for key, values in train.items()} for split, rows in parts.items()}
    return {**columns, **cuts}


def _index(name: str, columns: Mapping[str, TaskColumns], labels: Sequence[str], places: Mapping[str, Where]) -> None:
    """Write the classes' indices into the columns, in place of their names."""
    index = {label: i for i, label in enumerate(labels)}
    for split, part in columns.items():
        strangers = Counter(label for label in part["label"] if label not in index)
        if strangers:
            listed = ", ".join(f"'{label}' ({count} rows)" for label, count in sorted(strangers.items())[:5])
            # A split that was cut from train has no strangers, so this one has places.
            place = places[split](next(i for i, label in enumerate(part["label"]) if label in strangers))
            known = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
            raise LopsidedError(
                f"labels differ between splits: task {name} expected train's labels {known}; "
                f"{split} has {listed}, which train lacks, first at {place}; correct the rows, or read it as one of "
                f"train's: rename_labels={{'{min(strangers)}': ...}}"
            )
        part["label"] = [index[label] for label in part["label"]]
