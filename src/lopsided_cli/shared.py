"""What the verbs share: quiet libraries, and errors as one line."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What a table shows for a figure that could not be computed; the reason stands below it.
MISSING = "–"

# Set to anything, an unexpected error ends with its traceback.
TRACEBACK = "LOPSIDED_TRACEBACK"


class BadInput(Exception):
    """One line for the user: expected, received, fix."""


@contextmanager
def verb() -> Iterator[None]:
    """Run a verb's body: every error becomes `BadInput`, one line on stderr, and libraries keep quiet."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Idle threads of one pool must not spin while another works.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    import torch
    import typer
    from datasets import disable_progress_bars
    from transformers.utils import logging

    from lopsided.errors import LopsidedError, first_line

    # Their bars and warnings are about how we call them, which is not the user's business.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    # What a verb itself ends with: its exit status, or a line of ours.
    except (typer.Exit, typer.Abort, BadInput):
        raise
    except LopsidedError as error:
        raise BadInput(str(error)) from error
    except OSError as error:
        raise BadInput(_of_system(error)) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise BadInput(
            "out of memory; what was saved is kept; lower --batch-size (and raise --accumulate) or --max-length, and "
            "run again with --resume"
        ) from error
    # A defect, of ours or of a library: one line, and the way to see where it comes from.
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        said = first_line(error) if str(error).strip() else "no message"
        raise BadInput(
            f"{type(error).__name__}: {said}; this should not happen: set {TRACEBACK}=1 to see where it "
            "comes from, and report it"
        ) from error


def _of_system(error: OSError) -> str:
    from lopsided.errors import first_line

    if error.errno == errno.ENOSPC:
        return (
            f"no space left on the disk of {error.filename or 'the output folder'}; the last good files are "
            "kept; free some space and run again with --resume"
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"can't write {error.filename}: {error.strerror}; choose another --out"
    where = f" {error.filename}" if error.filename else ""
    said = error.strerror or first_line(error)
    return f"the system refused{where}: {said}; check the path and the disk, and run again with --resume"


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


def print_json(value: Any) -> None:
    """Print a record as strict JSON, for other programs."""
    from lopsided.files.strict_json import dumps

    print(dumps(value))


def figure(value: float | None, form: str = ".3g") -> str:
    """A number as text, or a dash for one that is missing or not finite.

    Example:
        >>> figure(0.51234, ".2f"), figure(None), figure(float("nan"))
        ('0.51', '–', '–')
    """
    from lopsided.finite import is_finite

    return f"{value:{form}}" if is_finite(value) else MISSING
