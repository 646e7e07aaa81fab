"""A run directory: taken by one process at a time, `run.json` always whole.

run.json           configuration, versions, metrics by split, history, timings, sizes, chain events
predictions.npz    one entry a row of each evaluated split, for paired comparisons
adapter/           what was learned
trajectory/        what had been learned at each evaluation, where it is kept
checkpoints/       the best and the last, as `transformers.Trainer` writes them
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.files import strict_json
from lopsided.files.atomic import file_hash, write_arrays, write_json
from lopsided.files.checkpoints import discard_incomplete, step_of, whole_checkpoints

RECORD = "run.json"
SCHEMA = 1
ID_DIGITS = 12
LOCK = ".lock"
CUT_OFF = "cut off"
ATTEMPTS = 5
# Deeper than this, nothing of ours lies: compare/runs/NAME is the deepest.
DEPTH = 4


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Raises:
        LopsidedError: if another process holds it, or it can't be made.
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
    """Hold the lock, unless another process does; a reader that asks who holds it has it for a moment."""
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
        what = "is a file" if place == folder else f"can't be made: {place} is a file"
        raise LopsidedError(f"{folder} {what}; expected a folder; choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise LopsidedError(f"{folder} can't be written: no permission in {place}; choose another --out")


def is_begun(folder: Path) -> bool:
    """Whether a run or a comparison has been there, so that its folder has to be held before anything is looked at."""
    return (folder / LOCK).exists() or (folder / "run.json").exists()


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder. A process that ends in any way, `kill -9` included, holds it no longer."""
    if not (folder / LOCK).is_file():
        return False
    with open(folder / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_run(folder: Path) -> dict[str, Any] | None:
    """The run's record, or None if there is none yet.

    A record says "running" until its process writes another word. Where that process is gone, the status that is
    returned is "cut off".

    Raises:
        LopsidedError: if `run.json` is not a record of ours.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        record = strict_json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise LopsidedError(f"{path}:{error.lineno}: not JSON ({error.msg}); delete the folder") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise LopsidedError(f"{path} is not a run of schema {SCHEMA}; choose another folder")
    if record.get("status") == "running" and not is_held(folder):
        record |= {"status": CUT_OFF, "error": "its process ended without a word, as by kill -9 or a power cut"}
    return record


def is_finished(folder: Path) -> bool:
    """Whether a finished run is there. One whose record can't be read is none."""
    try:
        record = read_run(folder)
    except LopsidedError:
        return False
    return record is not None and record.get("status") == "finished"


def run_id(folder: Path) -> str:
    """What a run is known by: the first digits of its record's SHA-256, which another state of the run changes."""
    return file_hash(folder / "run.json")[:ID_DIGITS]


def folders_with(names: Collection[str], path: Path, depth: int = DEPTH) -> Iterator[Path]:
    """The folders at or below a path that hold a file of one of these names; not looked for inside of one another."""
    if any((path / name).is_file() for name in names):
        yield path
    elif depth and path.is_dir():
        for inner in sorted(path.iterdir()):
            if inner.is_dir() and not inner.name.startswith("."):
                yield from folders_with(names, inner, depth - 1)


def run_folders(path: Path) -> list[Path]:
    """The run directory at a path, or those below it: a comparison keeps its own in `runs`.

    Raises:
        LopsidedError: if there is none.
    """
    found = list(folders_with(["run.json"], path))
    if not found:
        raise LopsidedError(
            f"expected a run directory or a folder of them, got {path} without a run.json; make one with "
            "`lopsided train` or `lopsided compare`"
        )
    return found


def write_run(folder: Path, record: Mapping[str, Any]) -> None:
    write_json(folder / "run.json", record)


def overwrite_run(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record over the bytes of the old one: for a disk without room for a new file."""
    text = strict_json.dumps(record) + "\n"
    with open(folder / "run.json", "r+", encoding="utf-8") as file:
        # The old file may be longer: JSON may end in spaces.
        length = len(file.read())
        file.seek(0)
        file.write(text + " " * max(0, length - len(text)))


def write_predictions(folder: Path, rows: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Keep every row of the evaluated splits: `<split>|<column>` -> (n,)."""
    arrays = {f"{split}|{name}": array for split, columns in rows.items() for name, array in columns.items()}
    write_arrays(folder / "predictions.npz", arrays)


def read_predictions(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """What `write_predictions` wrote, by split."""
    rows: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / "predictions.npz") as arrays:
        for key in arrays.files:
            split, name = key.split("|")
            rows.setdefault(split, {})[name] = arrays[key]
    return rows


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed process had begun to write: nothing goes on from it."""
    discard_incomplete(folder / "checkpoints")
    for pattern in (".adapter-*", "trajectory/.step-*", ".run.json-*", ".predictions.npz*"):
        for begun in folder.glob(pattern):
            shutil.rmtree(begun) if begun.is_dir() else begun.unlink()


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that the run can go on from."""
    return max(whole_checkpoints(folder / "checkpoints"), key=step_of, default=None)
