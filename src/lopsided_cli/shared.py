"""What the verbs share: quiet libraries, and errors as one line."""

from __future__ import annotations

import errno
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What a table shows for a figure that could not be computed; the reason stands below it.
MISSING = "–"


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


def renames(text: str) -> dict[str, str]:
    """ "OLD=NEW,OLDER=NEWER" as a mapping."""
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    if not all(old and new for old, new in pairs):
        raise BadInput(
            f"--rename-labels must be OLD=NEW pairs separated by commas, got {text!r}; write no=yes,maybe=yes"
        )
    return dict(pairs)


def print_json(value: Any) -> None:
    """Print a record as strict JSON, for other programs."""
    from lopsided.strict_json import dumps

    print(dumps(value))


def figure(value: float | None, form: str = ".3g") -> str:
    """A number as text, or a dash for one that is missing or not finite.

    Example:
        >>> figure(0.51234, ".2f"), figure(None), figure(float("nan"))
        ('0.51', '–', '–')
    """
    return MISSING if value is None or not math.isfinite(value) else f"{value:{form}}"
