"""Disks that are full, read-only or closed to this process, for real: in a namespace that ends with the process."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

NEW_USER, NEW_MOUNTS, READ_ONLY, REMOUNT = 0x10000000, 0x00020000, 1, 32
_libc = ctypes.CDLL(None, use_errno=True)


def leave_the_system(*, as_root: bool) -> None:
    """A user and mounts of this process's own.

    Args:
        as_root: root of its own mounts; otherwise an ordinary owner of its files, whom permissions stop.

    Raises:
        OSError: if the system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    _check(_libc.unshare(NEW_USER | NEW_MOUNTS))
    if as_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def mount(folder: Path, size: int, flags: int = 0) -> None:
    """An empty disk of that many bytes, or the same one with other flags."""
    _check(_libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode()))


def _check(status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def after_step(step: int, act: Callable[[], None]) -> None:
    """Do something when that many optimizer steps have been made."""
    made = 0

    def count(*args: object) -> None:
        nonlocal made
        made += 1
        if made == step:
            act()

    register_optimizer_step_post_hook(count)


def fill(folder: Path, room: int) -> Path:
    """A file that leaves so many bytes of the folder's disk."""
    free = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
    return ballast


def suffer(what: str, folder: Path, go: Callable[[bool], object], *, room: int) -> None:
    """A run whose disk fails, and which is resumed when the disk is mended.

    Args:
        what: "full", "read-only" from step 7 on, or "denied" from step 7 on.
        go: makes the run; whether to resume it.
        room: bytes on a full disk.
    """
    leave_the_system(as_root=what != "denied")
    size, checkpoints = 2**26, folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    if what == "full":
        mount(folder, size)
        mend, number = fill(folder, room).unlink, errno.ENOSPC
    elif what == "read-only":
        mount(checkpoints, size)
        after_step(7, lambda: mount(checkpoints, size, REMOUNT | READ_ONLY))
        mend, number = lambda: mount(checkpoints, size, REMOUNT), errno.EROFS
    else:
        after_step(7, lambda: checkpoints.chmod(0o500))
        mend, number = lambda: checkpoints.chmod(0o700), errno.EACCES
    with pytest.raises(OSError, match=os.strerror(number)):
        go(False)
    mend()
    go(True)
