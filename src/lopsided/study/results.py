"""`results.jsonl`: one line per cell that has ended, on any machine.

    schema      1
    cell        the cell's key, 16 hexadecimal digits
    role        "run", or "trial": a run that was made to choose a learning rate
    status      "finished", "failed" (it ended with an error) or "skipped" (it could not be begun here)
    reason      why it failed or was skipped; null for a finished cell
    model, task, method, seed
    settings    those of the run, and `sources`: who says so ("code", "readme", "paper", "default", "unknown")
    model_fingerprint, task_fingerprint
    folder      the name of the run directory, in the study's `runs`, or in its `trials`
    numerics    the number of this library's numerics; versions and machine are in the record
    record      `run.json` without its history; null unless finished
    rows        the answers to each row of the test splits, as base64 of compressed `.npy` files; null unless finished
    diagnosis   the sections of the run's diagnosis, without single layers; only where the study asks for it
    ended       when, in ISO format

Lines are added at the end, and a later line of a cell takes the place of an earlier one, unless that is finished. A
line that a killed process had begun is no line.
"""

from __future__ import annotations

import base64
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.files import strict_json
from lopsided.runs import Run
from lopsided.runs.directory import TRIALS
from lopsided.runs.facts import Predictions
from lopsided.runs.record_view import run_of_record

SCHEMA = 1
RESULTS = "results.jsonl"
Status = Literal["finished", "failed", "skipped"]
_KEYS = (
    *("schema", "cell", "role", "status", "reason", "model", "task", "method", "seed", "settings", "sources"),
    *("model_fingerprint", "task_fingerprint", "numerics", "record", "rows", "ended"),
)
# Of an array of answers, unpacked. Lines come from other machines, and a short text can unpack to more than memory.
MOST_BYTES = 2**28
# Of a run's splits, those that methods are not compared on.
_NOT_KEPT = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a cell: one line.

    Args:
        data: the line, as the module describes it.
        folder: the folder of the study, where the line was read from.
    """

    data: Mapping[str, Any]
    folder: Path

    @property
    def key(self) -> str:
        """The cell's key."""
        return str(self.data["cell"])

    @property
    def status(self) -> Status:
        """How it ended."""
        status: Status = self.data["status"]
        return status

    @property
    def is_finished(self) -> bool:
        """Whether the cell has its figures, and is never run again."""
        return self.status == "finished"

    @property
    def reason(self) -> str:
        """Why it has no figures; "" if it has."""
        return self.data["reason"] or ""

    @property
    def numerics(self) -> int:
        """The number of the numerics that it was made with."""
        return int(self.data["numerics"])

    @property
    def made_in(self) -> Path:
        """The run directory, if the study that the line was read from is the one that made it."""
        part = TRIALS if self.data["role"] == "trial" else "runs"
        return self.folder / part / str(self.data.get("folder", self.key))

    @cached_property
    def run(self) -> Run:
        """The finished run, wherever it was made."""
        return run_of_record(self.data["record"], unpacked(self.data["rows"]), self.made_in)


def packed(rows: Mapping[str, Predictions]) -> dict[str, dict[str, str]]:
    """Return the answers to the rows of test splits as text, for a line of results."""
    return {
        split: {name: _pack(array) for name, array in columns.items()}
        for split, columns in rows.items()
        if split not in _NOT_KEPT
    }


def unpacked(rows: Mapping[str, Mapping[str, str]]) -> dict[str, Predictions]:
    """Return what `packed` wrote, by split and column.

    Raises:
        LopsidedError: if it is damaged.
    """
    try:
        return {split: {name: _unpack(text) for name, text in columns.items()} for split, columns in rows.items()}
    except (ValueError, zlib.error, AttributeError) as error:
        raise LopsidedError(f"the rows of a result can't be read ({error}); take its line out") from error


def _pack(array: np.ndarray) -> str:
    file = io.BytesIO()
    # Four bytes are enough for a loss that is compared, and keep the lines short.
    np.save(file, array.astype(np.float32) if array.dtype == np.float64 else array, allow_pickle=False)
    return base64.b64encode(zlib.compress(file.getvalue(), 9)).decode()


def _unpack(text: str) -> np.ndarray:
    unpacking = zlib.decompressobj()
    data = unpacking.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
    if unpacking.unconsumed_tail:
        raise ValueError(f"an array of more than {MOST_BYTES:,} bytes")
    if not unpacking.eof:
        raise ValueError("an array that is broken off")
    array: np.ndarray = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return array


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line at the end of a results file, on the disk before this returns."""
    text = strict_json.dumps(line, indent=None) + "\n"
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def mend_tail(path: Path) -> None:
    """Cut off a line that a killed process had begun."""
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with open(path, "r+b") as file:
            file.truncate(whole)


def read_results(paths: Iterable[Path]) -> dict[str, Result]:
    """Return the result of every cell in some files, by key.

    Raises:
        LopsidedError: for a line that is none of ours, with file and line.
    """
    results: dict[str, Result] = {}
    for path in paths:
        for result in _lines(path):
            if result.key not in results or not results[result.key].is_finished:
                results[result.key] = result
    return results


def _lines(path: Path) -> Iterator[Result]:
    # A process that writes may be in the middle of the last line.
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise LopsidedError(f"{path}:{number}: not JSON ({error.msg}); take the line out") from error
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise LopsidedError(f"{path}:{number}: expected a result of schema {SCHEMA}; take the line out")
        if missing := [key for key in _KEYS if key not in data]:
            raise LopsidedError(
                f"{path}:{number}: expected a whole result, received one without {', '.join(missing)}; take it out"
            )
        yield Result(data=data, folder=path.parent)
