"""Errors as the command line shows them: one line on stderr, and exit status 2."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import typer

# Set to anything, an unexpected error ends with its traceback.
TRACEBACK = "LOPSIDED_TRACEBACK"


class BadInput(Exception):
    """One line for the user: expected, received, fix."""


@contextmanager
def interruptible(verb: str, folder: Path, plugin: Path | None) -> Iterator[None]:
    """Turn Ctrl-C inside the context into a line that says how to resume, and the exit status that a shell expects.

    Args:
        verb: the verb that resumes with `--resume`, from the settings that the folder holds.
        folder: the output folder; until it exists there is nothing to resume.
        plugin: the user's plugin file, which the line repeats: no record names code.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not folder.exists():
            raise
        own = [] if plugin is None else ["--plugin", str(plugin)]
        again = shlex.join(["lopsided", verb, "--resume", "--out", str(folder), *own])
        print(f"lopsided: interrupted; what was done is in {folder}; go on with: {again}", file=sys.stderr)
        raise typer.Exit(130) from None


class ErrorsAsLines:
    """A context in which every error becomes `BadInput`.

    What is no `Exception`, such as an exit status or Ctrl-C, passes; so does a defect where `LOPSIDED_TRACEBACK` is
    set.
    """

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raise `BadInput` in the place of another error."""
        if isinstance(error, Exception) and not isinstance(error, BadInput):
            line = _line_of(error)
            if line is not None:
                raise BadInput(line) from error


def _line_of(error: Exception) -> str | None:
    """Return what a user reads of an error; None for a defect whose traceback was asked for."""
    # An error of these comes from a verb that has imported them.
    import torch

    from lopsided.errors import LopsidedError, first_line

    if isinstance(error, LopsidedError):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return (
            "out of memory; what was saved is kept; lower --batch-size (and raise --accumulate) or --max-length, and "
            "run again with --resume"
        )
    # A defect, of ours or of a library.
    if os.environ.get(TRACEBACK):
        return None
    message = first_line(error) if str(error).strip() else "no message"
    return (
        f"{type(error).__name__}: {message}; this should not happen: set {TRACEBACK}=1 to see where it "
        "comes from, and report it"
    )


def _of_system(error: OSError) -> str:
    from lopsided.errors import first_line

    if error.errno == errno.ENOSPC:
        return (
            f"no space left on the disk of {error.filename or 'the output folder'}; the last good files are "
            "kept; free some space and run again with --resume"
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"cannot write {error.filename}: {error.strerror}; choose another --out"
    where = f" {error.filename}" if error.filename else ""
    message = error.strerror or first_line(error)
    return f"the system refused{where}: {message}; check the path and the disk, and run again with --resume"
