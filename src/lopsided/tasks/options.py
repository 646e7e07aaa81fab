"""What the user says about how a data set is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The options of `load_task`, for the source of the task.

    Args:
        label: the column to learn, where several could be it.
        metric: a name in `score_functions.SCORES`; None takes the task's own.
        make_split: whether a missing validation or test split (a tenth each) is cut from train by a hash of the text.
        rename_labels: classes to read under another name, such as {"Uncertain": "Unknown"}.
        ignore_columns: columns that are not for learning.
        data: a folder with the data sets of `TASKS` in local form, one folder per data set; None asks the hub.
        pool_files: whether all files of a folder but validation and test are train, and each row names its own.
    """

    label: str | None = None
    metric: str | None = None
    make_split: bool = False
    rename_labels: Mapping[str, str] | None = None
    ignore_columns: Sequence[str] = ()
    data: str | None = None
    pool_files: bool = False
