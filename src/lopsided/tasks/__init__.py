"""What to learn: embedded, local and hub tasks, their metrics, and their rows as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.tasks.encode import EncodedTask, collator, encode
from lopsided.tasks.hub import load_hub
from lopsided.tasks.local import load_local, read_jsonl
from lopsided.tasks.metrics import Metric, difference_standard_error, get_metric
from lopsided.tasks.task import SPLITS, Task
from lopsided.tasks.vader import load_vader

__all__ = [
    "SPLITS",
    "EncodedTask",
    "Metric",
    "Task",
    "collator",
    "difference_standard_error",
    "encode",
    "get_metric",
    "load_hub",
    "load_local",
    "load_task",
    "load_vader",
    "read_jsonl",
]


def load_task(
    name: str,
    *,
    label: str | None = None,
    metric: str | None = None,
    make_split: bool = False,
    rename_labels: Mapping[str, str] | None = None,
    ignore_columns: Sequence[str] | None = None,
) -> Task:
    """A task by name: the embedded ones first, then a folder, then the hub.

    Args:
        name: "vader/movie" and its like, a folder of JSON lines, or a Hugging Face name.
        label: the field to learn, where several could be it.
        metric: a name in `score_functions.SCORES`, or None for the task's own.
        make_split: cut a missing validation or test from train by a stable hash.
        rename_labels: classes to read under another name, such as {"Uncertain": "Unknown"}.
        ignore_columns: columns that are not for learning; every other column of text must be used.

    Raises:
        LopsidedError: if there is no such task, or its rows cannot be read.
    """
    if name == "vader" or name.startswith("vader/"):
        if label is not None or make_split or rename_labels or ignore_columns:
            raise LopsidedError(
                f"task {name} has its own labels and splits: received label, make_split, rename_labels or "
                "ignore_columns; leave them out"
            )
        return load_vader(name, metric=metric)
    options: dict[str, Any] = {
        "label": label,
        "metric": metric,
        "make_split": make_split,
        "rename_labels": rename_labels,
        "ignore_columns": tuple(ignore_columns or ()),
    }
    folder = Path(name).expanduser()
    if folder.exists() or name.startswith(("./", "../", "/", "~")):
        return load_local(folder, name=name, **options)
    return load_hub(name, **options)
