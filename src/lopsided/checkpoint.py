"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `path` when the block ends without an error.

    A reader sees the old folder or the new one, never a part of either; after an error the old one stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    old = new.with_name(new.name + "-old")
    try:
        yield new
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with the same promise: the old file, or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, allow_nan=True)
            file.write("\n")
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
