"""Files that are whole or not there, on disks that fail with one kind of error."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.files.strict_json import dumps

NUMBERS = {os.strerror(number): number for number in errno.errorcode}


class DiskErrors:
    """A context that raises `OSError` with the system's number when a write fails: full, read-only, not permitted.

    safetensors (`SafetensorError`), tokenizers (a bare `Exception`) and torch.save (`RuntimeError`) have errors of
    their own for it, with the number or its meaning in the text.

    Args:
        folder: where is written, for the error.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is None or isinstance(error, (OSError, LopsidedError)):
            return
        number = self._number(str(error))
        if number is not None:
            raise OSError(number, os.strerror(number), str(self.folder)) from error

    def _number(self, text: str) -> int | None:
        if found := re.search(r"\(os error (\d+)\)", text):
            return int(found[1])
        if (found := re.search(r"inline_container.*strerror: ([^\n]+)", text)) and found[1] in NUMBERS:
            return NUMBERS[found[1]]
        # Where the disk fills while torch.save writes, its error leaves the reason out.
        if ("inline_container" in text or "iostream error" in text) and shutil.disk_usage(self.folder).free < 2**20:
            return errno.ENOSPC
        return None


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `path` when the block ends without an error.

    A reader sees the old folder or the new one, never a part of either; after an error the old one stands. On Linux
    the two change places in one step; elsewhere there is a moment between two renames when neither is there.

    Raises:
        LopsidedError: if `path` is a file, or a folder with something that the new one does not replace.
        OSError: if the disk is full, read-only or not permitted.
    """
    if path.is_file():
        raise LopsidedError(f"{path} is a file; expected a folder or a free name; choose another one")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    old = new.with_name(new.name + "-old")
    try:
        new.chmod(0o777 & ~_umask())
        with DiskErrors(path.parent):
            yield new
        if path.exists():
            _check_replaceable(path, new)
            if _exchange(new, path):
                return
            os.rename(path, old)
        os.rename(new, path)
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def _exchange(new: Path, path: Path) -> bool:
    """Let two folders change places in one step, and say whether this system and its file system can."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # an older C library
        return False
    here, exchange = -100, 2
    if renameat2(here, os.fsencode(new), here, os.fsencode(path), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), str(path))


def _check_replaceable(path: Path, new: Path) -> None:
    strangers = sorted(set(os.listdir(path)) - set(os.listdir(new)))
    if strangers:
        raise LopsidedError(
            f"{path} holds {strangers[0]}, which would be lost; expected a new folder, or one written by the same "
            "command; choose another one"
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes: 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON with the same promise: the old file, or the whole new one.

    What is not finite is written as null, and said in the record's `nulls`; see `strict_json`.
    """
    # Before the file: a value that is no JSON leaves nothing behind.
    text = dumps(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    """The mask that a plain `open` would obey: temporary files are made private, and results are not secrets."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
