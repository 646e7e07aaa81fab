"""Folders of JSON lines: `train.jsonl`, `validation.jsonl`, `test.jsonl`, one object per line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.tasks.assemble import assemble
from lopsided.tasks.cast import cast
from lopsided.tasks.options import TaskOptions
from lopsided.tasks.reading import Choice, choose
from lopsided.tasks.task import LOCAL_NOTE, SPLITS, Task


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file; row i stands in line i + 1.

    Raises:
        LopsidedError: if the file is empty or not UTF-8, or a line is no JSON object.
    """
    try:
        # At line feeds alone: `splitlines` also splits at separators that JSON allows inside a text.
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise LopsidedError(
            f"{path}: expected UTF-8; received byte {error.start} {error.reason}; save it as UTF-8"
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise LopsidedError(f"{path}: expected at least one JSON object; received an empty file; add rows")
    return [_object(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise LopsidedError(
            f"{where}: expected a JSON object, got {line.strip()[:40]!r} ({error.msg}); correct the line"
        ) from error
    if not isinstance(row, dict):
        raise LopsidedError(
            f"{where}: expected a JSON object, got {type(row).__name__} {line.strip()[:40]!r}; "
            'write the row as {"field": value, ...}'
        )
    return row


def load_local(name: str, options: TaskOptions) -> Task:
    """Load a task from a folder of JSON lines; the field names say which kind (see `column_names.SHAPES`).

    Args:
        name: a folder that holds train.jsonl, validation.jsonl and test.jsonl.
        options: how its rows are read.

    Raises:
        LopsidedError: if a file is missing or malformed, or a field would not be used; the message names file and
            line, or field and split.
    """
    folder = Path(name).expanduser()
    files = _split_files(folder, options.make_split)
    rows = {split: read_jsonl(path) for split, path in files.items()}
    choice = choose(rows, source=str(folder), label=options.label, ignore=options.ignore_columns)
    for split, part in rows.items():
        check_labelled(files[split], part, choice, split)
    places = {split: line_of(path) for split, path in files.items()}
    return assemble(
        name,
        {split: cast(part, choice, places[split]) for split, part in rows.items()},
        places=places,
        reading=choice.reading,
        options=options,
        note=LOCAL_NOTE,
    )


def check_labelled(path: Path, rows: list[dict[str, Any]], choice: Choice, split: str) -> None:
    """Raise for a file in which no row has the field to learn.

    Args:
        path: the file. rows: all of it.
        choice: how they are read.
        split: that it belongs to.

    Raises:
        LopsidedError: naming the file and the field.
    """
    target = choice.target
    if target and all(row.get(target) is None for row in rows):
        fix = "add it" if split == "train" else "add it, or take the file out and pass --make-split"
        raise LopsidedError(
            f"{path}:1: expected field '{target}', which is to be learned; received none, nor in any other of the "
            f"{len(rows)} rows of {split}; {fix}"
        )


def _split_files(folder: Path, make_split: bool) -> dict[str, Path]:
    """Return the files of the splits that are there; without `make_split` all of them must be."""
    if not folder.is_dir():
        raise LopsidedError(
            f"expected a folder with train.jsonl, validation.jsonl, test.jsonl; received {folder}, which is "
            f"{'a file' if folder.exists() else 'not there'}; check the path"
        )
    paths = {split: folder / f"{split}.jsonl" for split in SPLITS}
    missing = [split for split, path in paths.items() if not path.is_file()]
    if "train" in missing or (missing and not make_split):
        names = ", ".join(f"{split}.jsonl" for split in missing)
        fix = "add it" if "train" in missing else "add it, or pass --make-split to cut it from train by a stable hash"
        raise LopsidedError(f"expected train.jsonl, validation.jsonl, test.jsonl in {folder}; missing {names}; {fix}")
    return {split: path for split, path in paths.items() if split not in missing}


def line_of(path: Path) -> Callable[[int], str]:
    """Return the function that gives the place of row i, for errors."""
    return lambda i: f"{path}:{i + 1}"
