"""What a run costs: the bytes that autograd keeps, the time of a step, and where it was measured."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from lopsided.models.mode_contexts import model_mode
from lopsided.runs.facts import Estimate, StepTime

PACKAGES = ("lopsided", "torch", "transformers", "peft", "accelerate", "datasets", "numpy")


def kept_bytes(model: nn.Module, batch: Mapping[str, Tensor]) -> int:
    """Count the bytes that autograd keeps between the forward and the backward pass of one training step.

    Every storage that is saved for backward counts once; parameters and buffers, which are there anyway, do
    not count.

    Args:
        model: as it is trained; its mode and the random state are left as they were.
        batch: keyword arguments of its forward, with labels.
    """
    ours = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # Storages are held until the end: a freed address could be given out again and be counted once for two.
    # Nothing else of a tensor is, since a graph that holds its own outputs is never freed.
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> None:
        # A sparse tensor has no storage of its own.
        for part in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
            storage = part.untyped_storage()
            saved.setdefault(storage.data_ptr(), storage)

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing)
    with model_mode(model, training=True), torch.random.fork_rng(), hooks:
        model(**batch)
    return sum(storage.nbytes() for pointer, storage in saved.items() if pointer not in ours)


class StepTimer(TrainerCallback, ExportableState):
    """Wall time of each optimizer step: forward, backward and update, without loading the batch.

    Args:
        checkpoint: of the run that goes on; its steps count, too.
    """

    def __init__(self, checkpoint: Path | None = None) -> None:
        self.seconds: list[float] = []
        self._start = 0.0
        if checkpoint is not None:
            states = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]
            self.seconds += states["StepTimer"]["attributes"]["seconds"]

    def state(self) -> dict[str, Any]:
        """Return what `Trainer` writes into a checkpoint."""
        return {"args": {}, "attributes": {"seconds": list(self.seconds)}}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the time of the step."""
        self.seconds.append(time.perf_counter() - self._start)

    def summary(self) -> StepTime:
        """Return the median time of a step and the median's standard error, the first steps left out as warm-up."""
        steady = np.array(self.seconds[min(3, len(self.seconds) // 2) :]) * 1000.0
        if steady.size == 0:
            reason = "no step was timed"
            return StepTime(milliseconds=Estimate(value=None, why={"value": reason, "se": reason}), steps=0)
        if steady.size == 1:
            reason = "one step has no standard error"
            return StepTime(milliseconds=Estimate(value=float(steady[0]), why={"se": reason}), steps=1)
        # A median of n values has 1.2533 times the standard error of their mean, where they are near normal;
        # the spread is taken from the quartiles, since a shared machine has outliers.
        spread = float(np.subtract(*np.percentile(steady, [75, 25]))) / 1.349
        median = Estimate(value=float(np.median(steady)), se=1.2533 * spread / steady.size**0.5)
        return StepTime(milliseconds=median, steps=int(steady.size))


def machine() -> dict[str, Any]:
    """Describe the machine, for readers of its figures elsewhere."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result depends on."""
    return {name: version(name) for name in PACKAGES}
