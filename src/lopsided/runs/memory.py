"""The memory that is free on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

# Where Linux says what a container may use: version 2 of control groups.
CONTAINER = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class MemoryFree:
    """Bytes that can still be allocated.

    Args:
        host: in main memory.
        device: on the accelerator that a run takes; None where there is none.
    """

    host: int
    device: int | None

    @property
    def for_training(self) -> int:
        """The free bytes where a run's model, its optimizer's state and its backward pass are held."""
        return self.host if self.device is None else self.device


def memory_free() -> MemoryFree:
    """Return the bytes that are free now: within the container's limit, if any, and with its file cache as free."""
    device = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    return MemoryFree(host=min([psutil.virtual_memory().available, *_container_free()]), device=device)


def _container_free() -> list[int]:
    """Return what is left of this process's container's limit; nothing where there is no limit."""
    limit, used, details = (CONTAINER / f"memory.{name}" for name in ("max", "current", "stat"))
    if not limit.is_file() or not limit.read_text().strip().isdecimal():
        return []
    # Pages of files that were read are part of what is used, and are given up when memory is asked for.
    cached = dict(line.split() for line in details.read_text().splitlines())["inactive_file"]
    return [int(limit.read_text()) - int(used.read_text()) + int(cached)]
