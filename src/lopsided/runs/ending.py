"""How a run ends when it does not finish: its record says so, whatever ended it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lopsided.errors import LopsidedError, first_line
from lopsided.runs.directory import overwrite_run, write_run

# Errors whose text alone says what went wrong; of others the type is half of it.
TELLING = (LopsidedError, OSError, RuntimeError, ValueError)


class Terminated(SystemExit):
    """SIGTERM, as schedulers and `kill` send it; the process ends with the status that a shell expects."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def reason(error: BaseException) -> str:
    """Return what ended a run, as one line of its record.

    Example:
        >>> reason(KeyError("label")), reason(KeyboardInterrupt()), reason(RuntimeError("out of memory"))
        ("KeyError: 'label'", 'interrupted (Ctrl-C)', 'out of memory')
    """
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)"
    if isinstance(error, Terminated):
        return "terminated (SIGTERM)"
    if isinstance(error, SystemExit):
        return f"the process exited with status {error.code}"
    text, kind = first_line(error), type(error).__name__
    return text if isinstance(error, TELLING) or text == kind else f"{kind}: {text}"


class FailureRecord:
    """A context that writes into `run.json` that the run failed, and why, if the block ends with an error of any kind.

    The error goes on; Ctrl-C and SIGTERM are recorded as well.

    Args:
        folder: the run directory.
        record: what `run.json` holds while the run goes on.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder, self.record = folder, record

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        failed = {**self.record, "status": "failed", "error": reason(error)}
        try:
            write_run(self.folder, failed)
        except OSError:
            # A full disk has no room for a new file, but for the bytes of the old one; a closed one has neither.
            with suppress(OSError):
                overwrite_run(self.folder, failed)


@contextmanager
def terminable() -> Iterator[None]:
    """End the block on SIGTERM as an error would, so that records are written and locks are released.

    A handler of the user's own is left alone; only the main thread can have one.
    """
    has_default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or not has_default:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
