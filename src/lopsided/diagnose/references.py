"""References that a run never read: a text, or sentence pairs with a human score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.tasks import read_jsonl


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs, each with a human score."""

    first: list[str]
    second: list[str]
    score: np.ndarray


def read_documents(path: Path, *, least: int = 20, most: int | None = None) -> list[str]:
    """Read the documents of a text file, one per line; empty lines are left out.

    Args:
        least: the fewest to accept: with fewer, the interval is of no use.
        most: how many are read, from the start of the file; None reads all.

    Raises:
        LopsidedError: if there is no such file, it is not UTF-8, or it has too few documents.
    """
    _check_file(path, "a text file with one document per line")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise LopsidedError(f"{path}: expected UTF-8, got byte {error.start} {error.reason}; save it so") from error
    documents = [line.strip() for line in lines if line.strip()][:most]
    _check_number(path, len(documents), least, "documents")
    return documents


def read_pairs(path: Path, *, split: str = "test", least: int = 20, most: int | None = None) -> Pairs:
    """Read sentence pairs with a human score: JSON lines with `sentence1`, `sentence2` and `label`.

    Args:
        path: the file, or a folder with `<split>.jsonl`.
        least: the fewest to accept: with fewer, the interval is of no use.
        most: how many are read, from the start of the file; None reads all.

    Raises:
        LopsidedError: if there is no such file, a row lacks a field or a number, or there are too few rows.
    """
    file = path / f"{split}.jsonl" if path.is_dir() else path
    _check_file(file, "JSON lines with sentence1, sentence2 and label")
    rows = read_jsonl(file)[:most]
    for number, row in enumerate(rows, start=1):
        texts = all(isinstance(row.get(name), str) for name in ("sentence1", "sentence2"))
        score = row.get("label")
        if not texts or isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise LopsidedError(
                f"{file}:{number}: expected texts sentence1 and sentence2 and a number label, got fields "
                f"{', '.join(row) or 'none'}; correct the row"
            )
    _check_number(file, len(rows), least, "pairs")
    scores = np.array([row["label"] for row in rows], dtype=np.float64)
    if np.ptp(scores) == 0:
        raise LopsidedError(f"{file}: expected scores that differ, got {scores[0]} in all rows; pass another reference")
    return Pairs([row["sentence1"] for row in rows], [row["sentence2"] for row in rows], scores)


def _check_file(path: Path, expected: str) -> None:
    if not path.is_file():
        raise LopsidedError(f"{path}: expected {expected}, got no such file; correct the path")


def _check_number(path: Path, number: int, least: int, what: str) -> None:
    if number < least:
        raise LopsidedError(f"{path}: expected at least {least} {what}, got {number}; add some, or pass another file")
