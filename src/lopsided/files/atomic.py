"""Atomic writes of files and folders: after a crash or a full disk a reader finds the old content or all of the new.

Every write goes to a temporary name in the same folder first, since a rename is atomic within one file system only.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.files.strict_json import dumps

NUMBERS = {os.strerror(number): number for number in errno.errorcode}


class DiskErrors:
    """A context that turns failed writes into `OSError` with the system's number: full, read-only, not permitted.

    safetensors (`SafetensorError`), tokenizers (a bare `Exception`) and torch.save (`RuntimeError`) raise errors of
    their own, with the number or its meaning in the text. A class, since it looks at errors of every type without
    catching the ones that it does not translate.

    Args:
        folder: the folder that is written to, for the error.
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
        """Return the system's number that the text of an error holds, or None."""
        if match := re.search(r"\(os error (\d+)\)", text):
            return int(match[1])
        if (match := re.search(r"inline_container.*strerror: ([^\n]+)", text)) and match[1] in NUMBERS:
            return NUMBERS[match[1]]
        # If the disk fills while torch.save writes, its error leaves the reason out.
        if ("inline_container" in text or "iostream error" in text) and shutil.disk_usage(self.folder).free < 2**20:
            return errno.ENOSPC
        return None


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to `path`, which replaces `path` when the block ends without an error.

    The new bytes are on the disk before the rename, so that a power cut cannot leave an empty file under the name.

    Args:
        path: the file to write; its folder must exist.

    Raises:
        OSError: if the disk is full, read-only or not permitted.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with DiskErrors(path.parent):
            yield temporary
        # The writer may have replaced the temporary file (safetensors does), so the mode is set afterwards.
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        # After the rename there is nothing left under this name.
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file in UTF-8, atomically.

    Args:
        path: the file to write; its folder must exist.
        text: written with the line ends that it has.
        errors: what becomes of characters that UTF-8 cannot encode, as for `open`.
    """
    data = text.encode("utf-8", errors)
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a record as strict JSON, atomically; make its folder if needed.

    A number that is not finite is written as null, and the record's `nulls` say where; see `strict_json`.
    """
    # Serialized first, so that a value that is no JSON leaves no folder behind.
    text = dumps(value) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name as a compressed `.npz`, atomically."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        # An open file, because NumPy appends ".npz" to names that do not end with it.
        np.savez_compressed(file, **dict[str, Any](arrays))


@contextmanager
def atomic_folder(path: Path, *, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Yield a new folder to write into, which replaces `path` when the block ends without an error.

    A reader sees the old folder or the new one, never a part of either; after an error the old one stands. On Linux
    the two are exchanged in one step; elsewhere there is a moment between two renames when neither is there. Where
    `path` is a symbolic link, the folder that it leads to is replaced, and the link stays.

    Args:
        path: the folder, or a link to it, or to where it is to be.
        replaces: names of files in the old folder that the caller has written, and may not write this time.

    Raises:
        LopsidedError: if `path` is a file, or a folder with something that the new one does not replace.
        OSError: if the disk is full, read-only or not permitted.
    """
    if path.is_file():
        raise LopsidedError(f"{path} is a file; expected a folder or a free name; choose another one")
    # A rename would put the new folder in the link's place, and leave the link under the temporary name.
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    old = new.with_name(new.name + "-old")
    try:
        new.chmod(0o777 & ~_umask())
        with DiskErrors(path.parent):
            yield new
        if path.exists():
            _check_replaceable(path, new, replaces)
            if _exchange(new, path):
                return
            os.rename(path, old)
        os.rename(new, path)
    finally:
        # Where the second rename failed, the old folder goes back to its place.
        if old.exists() and not path.exists():
            os.rename(old, path)
        # After an exchange, `new` is the name of the old content.
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def _exchange(new: Path, path: Path) -> bool:
    """Exchange two folders in one step; return False where the system or the file system has no such call."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # an older C library
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of the kernel's headers
    if renameat2(here, os.fsencode(new), here, os.fsencode(path), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), str(path))


def _check_replaceable(path: Path, new: Path, replaces: Collection[str]) -> None:
    """Raise if the folder holds files that were not written by the same command and would be lost."""
    strangers = sorted(set(os.listdir(path)) - set(os.listdir(new)) - set(replaces))
    if strangers:
        raise LopsidedError(
            f"{path} holds {strangers[0]}, which would be lost; expected a new folder, or one written by the same "
            "command; choose another one"
        )


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        # In pieces, since a model's file may be larger than the memory.
        while piece := file.read(2**24):
            digest.update(piece)
    return digest.hexdigest()


def _umask() -> int:
    """Return the mask that a plain `open` obeys: temporary files are made private, but results are no secrets."""
    # The system has no call that reads the mask without setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
