"""A disk that fails is one kind of error, whichever library was writing."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lopsided.checkpoint import naming_full_disk

NUMBERS = {os.strerror(number): number for number in errno.errorcode}


@contextmanager
def naming_disk_errors(folder: Path) -> Iterator[None]:
    """Raise `OSError` with the system's number when a write fails: no space, no permission, a read-only disk.

    safetensors and torch.save have errors of their own for it, with the number or its meaning in the text.

    Args:
        folder: where was written, for the error.
    """
    try:
        with naming_full_disk(folder):
            yield
    except SafetensorError as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise _named(int(found[1]), folder) from error
        raise
    except RuntimeError as error:
        found = re.search(r"inline_container.*strerror: ([^\n]+)", str(error))
        if found and found[1] in NUMBERS:
            raise _named(NUMBERS[found[1]], folder) from error
        # Where the disk fills while torch.save flushes its buffer, its error names neither file nor reason.
        if "iostream error" in str(error) and shutil.disk_usage(folder).free < 2**20:
            raise _named(errno.ENOSPC, folder) from error
        raise


def _named(number: int, folder: Path) -> OSError:
    return OSError(number, os.strerror(number), str(folder))
