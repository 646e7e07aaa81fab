"""Data sets by Hugging Face name: `glue/mrpc`, `org/name`, `org/name/config`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets

from lopsided.errors import LopsidedError, first_line
from lopsided.tasks.assemble import assemble
from lopsided.tasks.cast import Columns, cast
from lopsided.tasks.reading import Choice, Where, choose
from lopsided.tasks.task import Task

# Collections from before the hub had owners: what follows the slash is a configuration.
COLLECTIONS = ("glue", "super_glue", "tweet_eval")

SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "validation_matched", "dev", "valid"),
    "test": ("test", "test_matched"),
}

# The figure that a benchmark reports first, where it is not the kind's own.
PRIMARY = {"glue/cola": "matthews_correlation", "glue/stsb": "pearson"}


def load_hub(
    name: str,
    *,
    label: str | None = None,
    metric: str | None = None,
    make_split: bool = False,
    rename_labels: Mapping[str, str] | None = None,
    ignore_columns: Sequence[str] = (),
) -> Task:
    """A task from the hub, or from its local cache.

    Args:
        name: "glue/mrpc", "imdb", "org/name" or "org/name/config".
        label: the field to learn, where several could be it.
        metric: a name in `score_functions.SCORES`, or None for the benchmark's own.
        make_split: cut a split that is missing or unlabelled (a tenth each) from train.
        rename_labels: classes to read under another name.
        ignore_columns: columns that are not for learning.

    Raises:
        LopsidedError: if the data set cannot be had, has other columns, or has no labelled test.
    """
    loaded = _load(name)
    found = {
        split: next((loaded[known] for known in names if known in loaded), None) for split, names in SPLIT_NAMES.items()
    }
    train = found["train"]
    if train is None:
        raise LopsidedError(
            f"{name}: expected a split named train; received {', '.join(loaded) or 'none'}; use another data set"
        )
    rows = {split: data.to_list() for split, data in found.items() if data is not None}
    choice = choose(rows, source=name, label=label, ignore=ignore_columns)
    feature = train.features[choice.target] if choice.target else None
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    columns, places, dropped = {}, {}, []
    for split in found:
        part = rows.get(split, [])
        kept = _labelled(part, choice.target, names is not None)
        if kept:
            places[split] = _row_of(name, split, kept)
            columns[split] = _columns([part[i] for i in kept], choice, places[split], names)
            if len(kept) < len(part):
                dropped.append(f"{len(part) - len(kept)} unlabelled rows of {split} left out")
        elif split == "train" or not make_split:
            state = "is missing" if split not in rows else "has no labels (all -1 or absent)"
            fix = (
                "use another data set"
                if split == "train"
                else "pass --make-split to cut it from train by a stable hash"
            )
            raise LopsidedError(
                f"{name}: expected labelled splits train, validation, test; {split} {state}, received "
                f"{', '.join(loaded)}; {fix}"
            )
    cuts = [f"{split} cut from train: not comparable with published figures" for split in found if split not in columns]
    return assemble(
        name,
        columns,
        places=places,
        reading=choice.reading,
        labels=names,
        metric=metric or PRIMARY.get(name),
        rename_labels=rename_labels,
        note="; ".join(cuts + dropped),
    )


def _columns(rows: list[dict[str, Any]], choice: Choice, where: Where, names: list[str] | None) -> Columns:
    columns = cast(rows, choice, where)
    if names is not None:
        for i, value in enumerate(columns["label"]):
            if not 0 <= value < len(names):
                raise LopsidedError(
                    f"{where(i)}: expected a class from 0 to {len(names) - 1}, as the data set declares; received "
                    f"{value}; use another data set"
                )
        columns["label"] = [names[value] for value in columns["label"]]
    return columns


def _load(name: str) -> Mapping[str, Any]:
    parts = name.split("/")
    if parts[0] in COLLECTIONS and len(parts) == 2:
        arguments = parts
    elif len(parts) <= 3 and all(parts):
        arguments = ["/".join(parts[:2]), *parts[2:]]
    else:
        raise LopsidedError(
            f"expected a data set as 'name', 'org/name' or 'org/name/config'; received '{name}'; "
            "for a local folder give a path that exists"
        )
    try:
        return datasets.load_dataset(*arguments)
    # What `datasets` raises for: no such data set or no network; no such configuration; a data set
    # that is a script.
    except (OSError, ValueError, RuntimeError) as error:
        raise LopsidedError(
            f"task '{name}': expected vader/DOMAIN, a local folder of JSON lines, or a Hugging Face name; "
            f"received from the hub: {first_line(error)}; check the name and the network"
        ) from error


def _labelled(rows: list[dict[str, Any]], target: str, declared: bool) -> list[int]:
    """The rows that carry a label; -1 stands for none where classes are declared, or in every row."""
    if not target:
        return list(range(len(rows)))
    values = [row.get(target) for row in rows]
    if declared or all(value in (-1, None) for value in values):
        return [i for i, value in enumerate(values) if value not in (-1, None)]
    return list(range(len(rows)))


def _row_of(name: str, split: str, kept: Sequence[int]) -> Callable[[int], str]:
    """The place in the whole split of row i of those that were kept."""
    return lambda i: f"{name} {split} row {kept[i]}"
