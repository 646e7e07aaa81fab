"""Data sets by Hugging Face name: `glue/mrpc`, `org/name`, `org/name/config`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import datasets

from lopsided.errors import LopsidedError, first_line, suggestion
from lopsided.tasks.assemble import assemble
from lopsided.tasks.cast import TaskColumns, cast
from lopsided.tasks.options import TaskOptions
from lopsided.tasks.reading import Choice, Where, choose
from lopsided.tasks.task import Task

# Collections from before the hub had owners: what follows the slash is a configuration.
COLLECTIONS = ("glue", "super_glue", "tweet_eval")

SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "validation_matched", "dev", "valid"),
    "test": ("test", "test_matched"),
}

# The metric that a benchmark reports first, where it is not the default of the kind.
PRIMARY = {"glue/cola": "matthews_correlation", "glue/stsb": "pearson"}


def load_hub(name: str, options: TaskOptions, known: Collection[str] = ()) -> Task:
    """Load a task from the hub, or from its local cache.

    Args:
        name: "glue/mrpc", "imdb", "org/name" or "org/name/config".
        options: how its rows are read; a split that is there without labels is cut from train, too. A metric of None
            takes the benchmark's own.
        known: names that a misspelt one may have been meant for.

    Raises:
        LopsidedError: if the data set cannot be loaded, has other columns, or has no labelled test.
    """
    loaded = _load(name, known)
    data = {
        split: next((loaded[known] for known in names if known in loaded), None) for split, names in SPLIT_NAMES.items()
    }
    train = data["train"]
    if train is None:
        raise LopsidedError(
            f"{name}: expected a split named train; received {', '.join(loaded) or 'none'}; use another data set"
        )
    rows = {split: part.to_list() for split, part in data.items() if part is not None}
    choice = choose(rows, source=name, label=options.label, ignore=options.ignore_columns)
    feature = train.features[choice.target] if choice.target else None
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    columns, places, dropped = {}, {}, []
    for split in SPLIT_NAMES:
        part = rows.get(split, [])
        labelled = _labelled(part, choice.target, names is not None)
        if labelled:
            places[split] = _row_of(name, split, labelled)
            columns[split] = _columns([part[i] for i in labelled], choice, places[split], names)
            if len(labelled) < len(part):
                dropped.append(f"{len(part) - len(labelled)} unlabelled rows of {split} left out")
        elif split == "train" or not options.make_split:
            raise _no_labels(name, split, list(loaded), is_there=split in rows)
    cut = [split for split in SPLIT_NAMES if split not in columns]
    notes = [f"{split} cut from train: not comparable with published figures" for split in cut] + dropped
    return assemble(
        name,
        columns,
        places=places,
        reading=choice.reading,
        options=dataclasses.replace(options, metric=options.metric or PRIMARY.get(name)),
        labels=names,
        note="; ".join(notes),
    )


def _no_labels(name: str, split: str, splits: Sequence[str], *, is_there: bool) -> LopsidedError:
    state = "has no labels (all -1 or absent)" if is_there else "is missing"
    fix = "use another data set" if split == "train" else "pass --make-split to cut it from train by a stable hash"
    return LopsidedError(
        f"{name}: expected labelled splits train, validation, test; {split} {state}, received "
        f"{', '.join(splits)}; {fix}"
    )


def _columns(rows: list[dict[str, Any]], choice: Choice, where: Where, names: list[str] | None) -> TaskColumns:
    """Cast rows, with the names of the classes in place of the numbers that the data set declares for them."""
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


def _load(name: str, known: Collection[str]) -> Mapping[str, Any]:
    """Return the data set's splits by name."""
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
    # `datasets` raises these for: no such data set or no network; no such configuration; a data set that is a script.
    except (OSError, ValueError, RuntimeError) as error:
        fix = suggestion(name, known, "check the name and the network")
        raise LopsidedError(
            f"task '{name}': expected vader/DOMAIN, a local folder, a name of `lopsided tasks`, or a Hugging Face "
            f"name; received from the hub: {first_line(error)}{fix}"
        ) from error


def _labelled(rows: list[dict[str, Any]], target: str, declared: bool) -> list[int]:
    """Return which rows carry a label; -1 stands for none where classes are declared, or if every row has it."""
    if not target:
        return list(range(len(rows)))
    values = [row.get(target) for row in rows]
    if declared or all(value in (-1, None) for value in values):
        return [i for i, value in enumerate(values) if value not in (-1, None)]
    return list(range(len(rows)))


def _row_of(name: str, split: str, rows: Sequence[int]) -> Callable[[int], str]:
    """Return the function that gives the place, in the whole split, of the i-th of these rows."""
    return lambda i: f"{name} {split} row {rows[i]}"
