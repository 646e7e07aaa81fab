"""Moments at which a process dies, as by `kill -9`, or its disk fails: the n-th time that something of a kind happens.

    forward    a layer is about to compute
    step       the optimizer has just moved the weights
    advance    a layer is about to begin its next link, after others have begun theirs
    tensors    a safetensors file is being written: a part of it is on the disk
    pickle     a file of `torch.save` is being written
    state      `trainer_state.json` is being written
    delete     a folder is being deleted, with a part of it gone
    file       a file or folder of the run is about to be opened for writing, renamed or deleted

The last two see every operation that Python makes on files, so the writing and the rotation of checkpoints,
`adapter/`, `predictions.npz` and `run.json` are all among their moments.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import TrainerState

import lopsided.optim.advance
from lopsided.tuner import LopsidedLinear

WRITES = ("tensors", "pickle", "state", "delete", "file")
KINDS = ("forward", "step", "advance", *WRITES)


@dataclass(frozen=True)
class Moment:
    """The n-th time, from 1, that something of the kind happens.

    Args:
        share: of a torn file's bytes that reach the disk.
    """

    kind: str
    n: int
    share: float = 0.5


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Site:
    """Counts what happens in this process, and strikes at the moment: it dies, or its disk fails from then on.

    Args:
        folder: the one whose files are watched.
        number: of the error that every write ends with from the moment on; None dies.
    """

    def __init__(self, folder: Path, moment: Moment | None, number: int | None = None) -> None:
        self.folder, self.moment, self.number = folder, moment, number
        self.counts: Counter[str] = Counter()
        self.broken = False

    def arm(self) -> None:
        """From now on, for the rest of this process."""
        self._before(LopsidedLinear, "forward", "forward")
        self._before(lopsided.optim.advance, "begin_next", "advance")
        self._torn(safetensors.torch, "serialize_file", "tensors")
        self._torn(torch, "save", "pickle")
        self._torn(TrainerState, "save_to_json", "state")
        register_optimizer_step_post_hook(lambda *args: self._strike("step") if self._comes("step") else None)
        sys.addaudithook(self._watch)

    def _comes(self, kind: str) -> bool:
        self.counts[kind] += 1
        now = self.moment is not None and (kind, self.counts[kind]) == (self.moment.kind, self.moment.n)
        if now and self.number is not None:
            self.broken = True
        if now and self.number == errno.ENOSPC:
            full = shutil._ntuple_diskusage(10**9, 10**9, 0)  # type: ignore[attr-defined]
            shutil.disk_usage = lambda path: full
        return now or (self.broken and kind in WRITES)

    def _strike(self, kind: str) -> None:
        if self.number is None:
            die()
        elif kind in WRITES:
            raise failure(kind, self.number)

    def _before(self, owner: Any, name: str, kind: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if self._comes(kind):
                self._strike(kind)
            return original(*args, **kwargs)

        setattr(owner, name, counted)

    def _torn(self, owner: Any, name: str, kind: str) -> None:
        original = getattr(owner, name)

        def counted(content: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
            now = self._comes(kind)
            if now and self.number is not None:
                self._strike(kind)
            written = original(content, path, *args, **kwargs)
            if now:
                assert self.moment is not None
                os.truncate(path, int(self.moment.share * os.path.getsize(path)))
                die()
            return written

        setattr(owner, name, counted)

    def _watch(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)):
                return
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            path = args[0]
        else:
            return
        deletes = event in ("os.remove", "os.rmdir")
        # Within `shutil.rmtree` names are relative to an open folder; nothing else deletes that way here.
        relative = deletes and args[1] != -1
        inside = isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(f"{self.folder}{os.sep}")
        # A full disk can still be tidied up; a new name may need room.
        harmless = self.number == errno.ENOSPC and deletes
        kind = "delete" if deletes else "file"
        if (relative or inside) and self._comes(kind) and not harmless:
            self._strike(kind)


def failure(kind: str, number: int) -> Exception:
    """The error with which a library reports that a write failed."""
    reason = os.strerror(number)
    if kind == "tensors":
        return SafetensorError(f"Error while serializing: I/O error: {reason} (os error {number})")
    if kind == "pickle" and number == errno.ENOSPC:
        return RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    if kind == "pickle":
        return RuntimeError(f"[enforce fail at inline_container.cc:747] . open file failed with strerror: {reason}")
    return OSError(number, reason)
