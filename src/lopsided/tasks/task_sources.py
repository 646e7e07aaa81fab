"""Tasks by name: the table of where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lopsided.errors import LopsidedError, suggestion
from lopsided.tasks.hub import load_hub
from lopsided.tasks.local import load_local
from lopsided.tasks.options import TaskOptions
from lopsided.tasks.picture_entry import load_picture_folder
from lopsided.tasks.picture_files import has_pictures
from lopsided.tasks.pooled import EXPECTED, load_pooled
from lopsided.tasks.registry import TASKS
from lopsided.tasks.splits import with_train_size
from lopsided.tasks.task import Task
from lopsided.tasks.vader import load_vader


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """Where tasks come from.

    Args:
        has: whether a task of this name comes from here.
        load: makes the task of that name.
    """

    has: Callable[[str], bool]
    load: Callable[[str, TaskOptions], Task]


def _is_path(name: str) -> bool:
    return Path(name).expanduser().exists() or name.startswith(("./", "../", "/", "~"))


def _is_pictures(name: str) -> bool:
    return _is_path(name) and has_pictures(Path(name).expanduser())


# The first source that has the name loads it; the hub takes whatever is left. One more source is one more entry.
SOURCES = (
    TaskSource(
        has=lambda name: name == "vader" or name.startswith("vader/"),
        # The package carries the rows, whatever folder there is for other tasks.
        load=lambda name, options: load_vader(name, replace(options, data=None)),
    ),
    TaskSource(has=_is_pictures, load=load_picture_folder),
    TaskSource(has=_is_path, load=load_local),
    TaskSource(has=lambda name: name in TASKS, load=lambda name, options: TASKS[name].load(name, options)),
    TaskSource(has=lambda name: True, load=partial(load_hub, known=TASKS)),
)


def load_task(
    name: str,
    *,
    label: str | None = None,
    metric: str | None = None,
    make_split: bool = False,
    rename_labels: Mapping[str, str] | None = None,
    ignore_columns: Sequence[str] | None = None,
    train_size: int | None = None,
    data: str | None = None,
    pool_files: bool = False,
) -> Task:
    """Load a task by name: the embedded ones first, then a folder, then those of `TASKS`, then the hub.

    Args:
        name: "vader/movie" and its like, a folder of JSON lines or images, a name in `TASKS`, or a Hugging Face name.
        label: the field to learn, where several could be it.
        metric: a name in `score_functions.SCORES`, or None for the task's own.
        make_split: cut a missing validation or test from train by a stable hash.
        rename_labels: classes to read under another name, such as {"Uncertain": "Unknown"}.
        ignore_columns: columns that are not for learning; every other column of text must be used.
        train_size: the most rows of train; None keeps all. They are drawn from the whole split by a fixed seed, never
            its first ones, since data sets come sorted.
        data: a folder with the data sets of `TASKS` in local form, one folder per data set; None asks the hub.
        pool_files: read all files of a folder but validation and test as train (see `pooled`).

    Raises:
        LopsidedError: if there is no such task, or its rows cannot be read.
    """
    options = TaskOptions(
        label=label,
        metric=metric,
        make_split=make_split,
        rename_labels=rename_labels or None,
        ignore_columns=tuple(ignore_columns or ()),
        data=data,
        pool_files=pool_files,
    )
    if data is not None and (name not in TASKS or _is_path(name)):
        near = suggestion(name, TASKS, "leave --data out, or take a name of `lopsided tasks`")
        raise LopsidedError(f"data={data!r} is for the names of `lopsided tasks`; received task '{name}'{near}")
    if pool_files:
        if not _is_path(name):
            raise LopsidedError(f"received task '{name}' to be read by files; expected {EXPECTED}; give its path")
        return with_train_size(load_pooled(name, options), train_size)
    source = next(source for source in SOURCES if source.has(name))
    return with_train_size(source.load(name, options), train_size)
