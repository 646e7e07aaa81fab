"""A task's fingerprint: equal for tasks that teach and ask the same, whatever they are called and wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from lopsided.tasks.task import Task

CHUNK = 1000


def fingerprint(task: Task) -> str:
    """Return the SHA-256 over what decides a result: kind, metric, classes, and the rows of every split in order.

    The task's name, its note, and the columns that its rows were read from are left out. Images count by their bytes
    as they are stored, which takes no time to decode; one that is stored as a path counts by its file.

    Args:
        task: what is learned.

    Shapes:
        64 hexadecimal digits, the same in every process and on every machine.
    """
    digest = hashlib.sha256()
    head = {"kind": task.kind, "metric": task.metric.name, "labels": list(task.labels)}
    digest.update(_line(head))
    for group, splits in (("splits", task.splits), ("out_of_domain", task.out_of_domain)):
        for split, rows in sorted(splits.items()):
            digest.update(_line([group, split, len(rows)]))
            for name in sorted(rows.column_names):
                digest.update(_line(name))
                for part in _values(rows, name):
                    digest.update(part)
    return digest.hexdigest()


def _line(value: Any) -> bytes:
    # ASCII, so that a lone surrogate in a text is a sequence of letters like any other.
    return json.dumps(value, sort_keys=True, allow_nan=False).encode() + b"\n"


def _values(rows: Dataset, name: str) -> Iterator[bytes]:
    """Yield a column's bytes in parts, which differ for different columns: JSON, or lengths and bytes of images."""
    column = rows.select_columns([name])
    if isinstance(rows.features[name], Image):
        for row in column.cast_column(name, Image(decode=False)):
            stored = row[name]["bytes"]
            stored = Path(row[name]["path"]).read_bytes() if stored is None else stored
            yield _line(len(stored)) + stored
        return
    for start in range(0, len(rows), CHUNK):
        # In chunks, so that the text of a large task is not in memory twice.
        yield _line(column[start : start + CHUNK][name])
