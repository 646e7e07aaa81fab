"""What the verbs share: quiet libraries, and errors as one line."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class BadInput(Exception):
    """One line for the user: expected, received, fix."""


@contextmanager
def verb() -> Iterator[None]:
    """Run a verb's body: our errors and the system's become `BadInput`, and libraries keep quiet."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle threads of one pool must not spin while another works.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from datasets import disable_progress_bars
    from transformers.utils import logging

    from lopsided.errors import LopsidedError

    # Their bars and warnings are about how we call them, which is not the user's business.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    except LopsidedError as error:
        raise BadInput(str(error)) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BadInput(
                f"no space left on the disk of {error.filename or 'the output folder'}; the last good files are "
                "kept; free some space and run again with --resume"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise BadInput(f"can't write {error.filename}: {error.strerror}; choose another --out") from error
        raise


def numbers(text: str, what: str) -> tuple[int, ...]:
    """ "0,1,2" as whole numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(f"{what} must be whole numbers separated by commas, got {text!r}; write {what} 0,1,2") from error


def names(text: str, what: str) -> list[str]:
    """ "a,b" as a list."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise BadInput(f"{what} must be names separated by commas, got {text!r}; write {what} a,b")
    return found


def renames(text: str) -> dict[str, str]:
    """ "OLD=NEW,OLDER=NEWER" as a mapping."""
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    if not all(old and new for old, new in pairs):
        raise BadInput(
            f"--rename-labels must be OLD=NEW pairs separated by commas, got {text!r}; write no=yes,maybe=yes"
        )
    return dict(pairs)
