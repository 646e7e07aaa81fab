"""A run directory: held by one process at a time, `run.json` always whole.

run.json           configuration, versions, metrics by split, history, timings, sizes, chain events
predictions.npz    one entry per row of each evaluated split, for paired comparisons
adapter/           what was learned
trajectory/        what had been learned at each evaluation, where it is kept
checkpoints/       until it has finished: the best and the last of what trains, with the optimizer's state

This module holds and writes it; `lopsided.runs.run` reads it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.files import strict_json
from lopsided.files.atomic import write_arrays, write_json
from lopsided.files.checkpoints import checkpoints_in, discard_incomplete, step_of, whole_checkpoints
from lopsided.runs.facts import Predictions

RECORD = "run.json"
SCHEMA = 1
LOCK = ".lock"
PREDICTIONS = "predictions.npz"
CHECKPOINTS = "checkpoints"
# Of a study: the runs that learning rates are chosen by.
TRIALS = "trials"
ATTEMPTS = 5
# Deeper than this, nothing of ours lies: compare/runs/NAME is the deepest.
DEPTH = 4


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Raises:
        LopsidedError: if another process holds it, or it cannot be made.
    """
    check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as lock:
        if not _lock(lock.fileno()):
            raise LopsidedError(
                f"{folder} is in use by another run; expected a free folder; wait for it or choose another --out"
            )
        yield


def _lock(handle: int) -> bool:
    """Take the lock, unless another process has it; a reader that asks who holds it has it for a moment."""
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if attempt + 1 < ATTEMPTS:
                time.sleep(0.02)
    return False


def check_place(folder: Path) -> None:
    """Raise if no run directory can be made there, without making one.

    Raises:
        LopsidedError: if a file stands in the way, or the folder that it would be made in can't be written to.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        problem = "is a file" if place == folder else f"can't be made: {place} is a file"
        raise LopsidedError(f"{folder} {problem}; expected a folder; choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise LopsidedError(f"{folder} can't be written: no permission in {place}; choose another --out")


def is_begun(folder: Path) -> bool:
    """Return whether a run or a comparison has begun there, so that the folder has to be held before it is read."""
    return (folder / LOCK).exists() or (folder / RECORD).exists()


def is_held(folder: Path) -> bool:
    """Return whether a process holds the folder. One that ends in any way, `kill -9` included, holds it no longer."""
    if not (folder / LOCK).is_file():
        return False
    with open(folder / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def folders_with(names: Collection[str], path: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the folders at or below a path that hold a file of one of these names; none inside of another.

    The trials of a study are left out, unless the path lies among them: they are no runs of its leaderboard.
    """
    if any((path / name).is_file() for name in names):
        yield path
    elif depth and path.is_dir():
        for inner in sorted(path.iterdir()):
            is_trials = inner.name == TRIALS and any(path.glob("results*.jsonl"))
            if inner.is_dir() and not inner.name.startswith(".") and not is_trials:
                yield from folders_with(names, inner, depth - 1)


def write_run(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the run's record: a reader sees the old one, or the whole new one."""
    write_json(folder / RECORD, record)


def overwrite_run(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record over the bytes of the old one: for a disk without room for a new file."""
    text = strict_json.dumps(record) + "\n"
    with open(folder / RECORD, "r+", encoding="utf-8") as file:
        # The old file may be longer: JSON may end in spaces.
        length = len(file.read())
        file.seek(0)
        file.write(text + " " * max(0, length - len(text)))


def write_predictions(folder: Path, rows: Mapping[str, Predictions]) -> None:
    """Keep every row of the evaluated splits: `<split>|<column>` -> (n,)."""
    arrays = {f"{split}|{name}": array for split, columns in rows.items() for name, array in columns.items()}
    write_arrays(folder / PREDICTIONS, arrays)


def read_predictions(folder: Path) -> dict[str, Predictions]:
    """Read what `write_predictions` wrote, by split; `Run.predictions` is this, once."""
    rows: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / PREDICTIONS) as arrays:
        for key in arrays.files:
            split, name = key.split("|")
            rows.setdefault(split, {})[name] = arrays[key]
    return dict(rows)


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed process had begun to write: nothing goes on from it."""
    discard_incomplete(folder / CHECKPOINTS)
    for pattern in (".adapter-*", "trajectory/.step-*", f".{RECORD}-*", f".{PREDICTIONS}*"):
        for begun in folder.glob(pattern):
            shutil.rmtree(begun) if begun.is_dir() else begun.unlink()


def discard_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished run, which nothing goes on from: `adapter/` has the best one's weights.

    They are what takes the most room: with its optimizer's state, a checkpoint of full fine-tuning has three models.
    One that can't be deleted is left: the run is over all the same.
    """
    for checkpoint in checkpoints_in(folder / CHECKPOINTS):
        shutil.rmtree(checkpoint, ignore_errors=True)
    # The folder may be a disk of its own, or hold something of the user's.
    with suppress(OSError):
        (folder / CHECKPOINTS).rmdir()


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that the run can go on from; None if there is none."""
    return max(whole_checkpoints(folder / CHECKPOINTS), key=step_of, default=None)
