"""Folders of several files, each with the rows of one owner: `clinic_a.jsonl`, `clinic_b.parquet`.

All of them together are train, and each row has its file's name, without the ending, in the column `FILE`. Validation
and test are files of these names, for everybody, or are cut from the whole by `make_split`; rows that are cut keep the
names of their files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from lopsided.errors import LopsidedError
from lopsided.tasks.assemble import assemble
from lopsided.tasks.cast import cast
from lopsided.tasks.kinds import FILE
from lopsided.tasks.local import check_labelled, line_of, read_jsonl
from lopsided.tasks.options import TaskOptions
from lopsided.tasks.reading import choose
from lopsided.tasks.task import LOCAL_NOTE, SPLITS, Task

Row = dict[str, Any]
EXPECTED = "a folder with a file of rows per client, such as clinic_a.jsonl and clinic_b.parquet"


def load_pooled(name: str, options: TaskOptions) -> Task:
    """Load a task from a folder with a file of rows per owner.

    Args:
        name: a folder with JSON lines or Parquet files of text.
        options: how its rows are read.

    Raises:
        LopsidedError: if there is no such folder or no file, a file is malformed or has no labels, or a split is
            missing.
    """
    folder = Path(name).expanduser()
    files = _files(folder)
    owners = {stem: path for stem, path in files.items() if stem not in SPLITS}
    others = {split: files[split] for split in SPLITS[1:] if split in files}
    _check_splits(folder, files, owners, options.make_split)
    parts = {stem: read_rows(path) for stem, path in owners.items()}
    rows = {"train": [row for part in parts.values() for row in part]}
    rows |= {split: read_rows(path) for split, path in others.items()}
    choice = choose(rows, source=str(folder), label=options.label, ignore=options.ignore_columns)
    for stem, part in parts.items():
        check_labelled(owners[stem], part, choice, "train")
    for split, path in others.items():
        check_labelled(path, rows[split], choice, split)
    pooled = [_place_of(owners[stem])(i) for stem, part in parts.items() for i in range(len(part))]
    places = {"train": pooled.__getitem__, **{split: _place_of(path) for split, path in others.items()}}
    columns = {split: cast(part, choice, places[split]) for split, part in rows.items()}
    columns["train"][FILE] = [stem for stem, part in parts.items() for _ in part]
    return assemble(name, columns, places=places, reading=choice.reading, options=options, note=LOCAL_NOTE)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file of JSON lines or of Parquet.

    Raises:
        LopsidedError: if it is empty or malformed, or holds images.
    """
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise LopsidedError(f"{path}: expected a Parquet file; received: {error}; write it again") from error
    if not rows:
        raise LopsidedError(f"{path}: expected at least one row; received none; add rows, or take the file out")
    images = [name for name, value in rows[0].items() if isinstance(value, dict) and "bytes" in value]
    if images:
        raise LopsidedError(
            f"{path}: expected rows of text; received images in column '{images[0]}', which are not shared out by "
            "file; take another partition"
        )
    return rows


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of rows by their names without the endings, in alphabetical order."""
    if not folder.is_dir():
        state = "a file" if folder.exists() else "not there"
        raise LopsidedError(f"expected {EXPECTED}; received {folder}, which is {state}; check the path")
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jsonl", ".parquet") and path.is_file())
    files: dict[str, Path] = {}
    for path in paths:
        if path.stem in files:
            raise LopsidedError(
                f"expected one file per name in {folder}; received {files[path.stem].name}, {path.name}; take one out"
            )
        files[path.stem] = path
    return files


def _check_splits(folder: Path, files: dict[str, Path], owners: dict[str, Path], make_split: bool) -> None:
    if "train" in files or not owners:
        received = f"{files['train'].name}, which names no client" if "train" in files else "no such file"
        raise LopsidedError(
            f"expected {EXPECTED}, in {folder}; received {received}; write a file per client, named after it"
        )
    missing = [split for split in SPLITS[1:] if split not in files]
    if missing and not make_split:
        names = " and ".join(f"{split}.jsonl" for split in missing)
        raise LopsidedError(
            f"expected validation.jsonl and test.jsonl next to the clients' files in {folder}; missing {names}; add "
            "it, or pass --make-split to cut it from the clients' rows by a stable hash"
        )


def _place_of(path: Path) -> Callable[[int], str]:
    """Return the function that gives the place of row i, for errors."""
    return line_of(path) if path.suffix == ".jsonl" else lambda i: f"{path} row {i}"
