"""From cast columns to a `Task`: the kind, the classes, the missing splits, the metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from lopsided.errors import LopsidedError, nearest
from lopsided.tasks.metrics import DEFAULT, get_metric
from lopsided.tasks.shapes import Columns
from lopsided.tasks.splits import cut
from lopsided.tasks.task import SPLITS, Task


def assemble(
    name: str,
    columns: Mapping[str, Columns],
    *,
    labels: Sequence[str] | None = None,
    metric: str | None = None,
    rename_labels: Mapping[str, str] | None = None,
    note: str = "",
) -> Task:
    """A task from the columns of its splits; validation and test are cut from train if missing.

    Floats among train's labels make a regression, anything else a classification. Train defines
    the classes: integers in numerical order, strings in alphabetical order.

    Args:
        columns: by split, as `shapes.cast` returns them.
        labels: the classes in index order, where the source declares them.
        metric: a name in `metrics.SCORES`, or None for the kind's own.
        rename_labels: classes to read under another name, such as {"Uncertain": "Unknown"}.

    Raises:
        LopsidedError: if labels are of mixed types, or a split has a class that train lacks.
    """
    columns = {split: dict(part) for split, part in columns.items()}
    kind = "generation" if "prompt" in columns["train"] else _kind(name, columns["train"]["label"])
    if rename_labels and kind != "classification":
        raise LopsidedError(f"task {name}: rename_labels is for classification; received it for {kind}; leave it out")
    if kind == "classification":
        for part in columns.values():
            part["label"] = [str(value) for value in part["label"]]
        if rename_labels:
            _rename(name, columns, rename_labels)
            # A renamed class gives up its place, so that no index is left without rows.
            labels = labels and list(dict.fromkeys(rename_labels.get(label, label) for label in labels))
    columns = _with_all_splits(columns, kind)
    if kind == "classification":
        if labels is None:
            labels = _sorted_names(columns["train"]["label"])
        _index(name, columns, labels)
    elif kind == "regression":
        for split, part in columns.items():
            _refuse_text(name, split, part["label"])
            part["label"] = [float(value) for value in part["label"]]
    return Task(
        name=name,
        kind=kind,
        splits={split: Dataset.from_dict(columns[split]) for split in SPLITS},
        labels=tuple(labels or ()) if kind == "classification" else (),
        metric=get_metric(metric or DEFAULT[kind]),
        note=note,
    )


def _kind(name: str, values: Sequence[Any]) -> str:
    # Strings may not be mixed with numbers; integers among floats are whole scores.
    types = {"text" if isinstance(value, str) else "number" for value in values}
    if len(types) > 1:
        raise LopsidedError(
            f"task {name}: expected train's labels in one type; received text and numbers; write them one way"
        )
    return "regression" if any(isinstance(value, float) for value in values) else "classification"


def _refuse_text(name: str, split: str, values: Sequence[Any]) -> None:
    text = [value for value in values if isinstance(value, str)]
    if text:
        raise LopsidedError(
            f"task {name}: expected numbers as labels of {split}, as in train; received '{text[0]}'; correct the rows"
        )


def _sorted_names(names: Sequence[str]) -> list[str]:
    # "10" comes after "9" where every name is an integer, so class k keeps index k in 0..k-1 data.
    numeric = all(name.removeprefix("-").isdecimal() for name in names)
    # The name breaks the tie of "1" and "01": a set's order changes from process to process.
    return sorted(set(names), key=lambda name: (int(name) if numeric else 0, name))


def _rename(name: str, columns: Mapping[str, Columns], names: Mapping[str, str]) -> None:
    known = {label for part in columns.values() for label in part["label"]}
    unknown = [label for label in names if label not in known]
    if unknown:
        raise LopsidedError(
            f"task {name}: rename_labels expects labels of the data; received '{unknown[0]}';"
            f"{nearest(unknown[0], known) or ' leave it out'}"
        )
    for part in columns.values():
        part["label"] = [names.get(label, label) for label in part["label"]]


def _with_all_splits(columns: Mapping[str, Columns], kind: str) -> dict[str, Columns]:
    missing = [split for split in SPLITS if split not in columns]
    if not missing:
        return dict(columns)
    train = columns["train"]
    texts = train["prompt"] if kind == "generation" else train["text"]
    parts = cut(texts, missing, train["label"] if kind == "classification" else None)
    made = {split: {key: [values[i] for i in rows] for key, values in train.items()} for split, rows in parts.items()}
    return {**columns, **made}


def _index(name: str, columns: Mapping[str, Columns], labels: Sequence[str]) -> None:
    index = {label: i for i, label in enumerate(labels)}
    for split, part in columns.items():
        strangers = Counter(label for label in part["label"] if label not in index)
        if strangers:
            listed = ", ".join(f"'{label}' ({count} rows)" for label, count in sorted(strangers.items())[:5])
            known = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
            raise LopsidedError(
                f"labels differ between splits: task {name} expected train's labels {known}; "
                f"{split} has {listed}, which train lacks; correct the rows, or read it as one of train's: "
                f"rename_labels={{'{min(strangers)}': ...}}"
            )
        part["label"] = [index[label] for label in part["label"]]
