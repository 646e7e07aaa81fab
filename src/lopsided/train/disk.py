"""A disk that fails is one kind of error, whichever library was writing."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from types import TracebackType

from lopsided.errors import LopsidedError

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
