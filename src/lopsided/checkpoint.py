"""Files that are whole or not there."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lopsided.errors import LopsidedError


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Raise `OSError(ENOSPC)` when the disk of `folder` is full, whichever library was writing.

    safetensors has an error of its own for it, and torch.save one that leaves the reason out.
    """
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    try:
        yield
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" not in str(error):
            raise
        raise full from error
    except RuntimeError as error:
        if "inline_container" not in str(error) or shutil.disk_usage(folder).free > 2**20:
            raise
        raise full from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `path` when the block ends without an error.

    A reader sees the old folder or the new one, never a part of either; after an error the old one stands. On Linux
    the two change places in one step; elsewhere there is a moment between two renames when neither is there.

    Raises:
        LopsidedError: if `path` is a file, or a folder with something that the new one does not replace.
        OSError: if the disk is full.
    """
    if path.is_file():
        raise LopsidedError(f"{path} is a file; expected a folder or a free name; choose another one")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    old = new.with_name(new.name + "-old")
    try:
        new.chmod(0o777 & ~_umask())
        with naming_full_disk(path.parent):
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


def write_json(path: Path, value: Any) -> None:
    """Write JSON with the same promise: the old file, or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, allow_nan=True)
            file.write("\n")
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
