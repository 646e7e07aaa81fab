"""Runs in processes of their own, and what of two runs must be the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from lopsided.files.checkpoints import step_of, whole_checkpoints
from lopsided.runs import finished_run
from tests.faults.moments import Moment

KILLED, FAILED = -9, 3
# What a step, a run or a session takes is not the same twice.
TIMES = ("runtime", "per_second")


class Nursery:
    """Starts runs in children of one process that has done the imports; see `nursery.py`."""

    def __init__(self, folder: Path) -> None:
        self.counts = folder / "counts.json"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def run(
        self,
        folder: Path,
        moment: Moment | None = None,
        *,
        number: int | None = None,
        seconds: float | None = None,
        disk: dict[str, Any] | None = None,
        like: Path | None = None,
        plain: bool = False,
        **options: Any,
    ) -> int:
        """A run, from its start or its last whole checkpoint.

        Args:
            moment: when it dies, or its disk begins to fail.
            number: of the error that its disk then fails with.
            seconds: after which it is killed from outside.
            disk: arguments for `suffer`. like: the run that it has to equal in spite of that.
            plain: whether it is a Trainer's, without a run directory.

        Returns:
            The exit status of its process.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"folder": str(folder), "counts": str(self.counts), "plain": plain, "options": options}
        request |= {"moment": asdict(moment) if moment else None, "number": number, "seconds": seconds}
        request |= {"disk": disk, "like": str(like), "resume": folder.exists()}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def happened(self) -> Counter[str]:
        """How often each kind of moment came, in the last run that reached its end."""
        return Counter(json.loads(self.counts.read_text()))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def assert_same_tensors(mine: Any, theirs: Any, where: str) -> None:
    """Equal bits and equal numbers, in nested containers."""
    assert type(mine) is type(theirs), where
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), where
        for key in mine:
            assert_same_tensors(mine[key], theirs[key], f"{where}.{key}")
    elif isinstance(mine, (list, tuple)):
        assert len(mine) == len(theirs), where
        for i, (one, other) in enumerate(zip(mine, theirs)):
            assert_same_tensors(one, other, f"{where}[{i}]")
    elif isinstance(mine, torch.Tensor):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), where
        assert torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (mine, theirs))), where
    elif isinstance(mine, np.ndarray):
        assert np.array_equal(mine, theirs), where
    else:
        assert mine == theirs, where


def without_times(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if not k.endswith(TIMES)} for entry in entries]


def assert_same_checkpoints(mine: Path, theirs: Path) -> None:
    """The last checkpoints hold the same weights, optimizer, schedule, random state and history."""
    last, other = (max(whole_checkpoints(folder), key=step_of) for folder in (mine, theirs))
    assert last.name == other.name
    assert_same_tensors(
        load_file(last / "adapter_model.safetensors"), load_file(other / "adapter_model.safetensors"), "adapter"
    )
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with torch.serialization.safe_globals([np._core.multiarray._reconstruct, np.ndarray, np.dtype]):
            both = [torch.load(folder / name, weights_only=False) for folder in (last, other)]
        assert_same_tensors(*both, name)
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (last, other)]
    for field in ("global_step", "epoch", "best_global_step", "best_metric", "total_flos"):
        assert states[0][field] == states[1][field], field
    assert_same_tensors(*(without_times(state["log_history"]) for state in states), "log_history")


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    [file] = folder.glob("*.safetensors")
    return load_file(file)


def assert_same_run(mine: Path, theirs: Path) -> None:
    """Two run directories hold the same, but for times."""
    learned = [
        load_file(weights) for folder in (mine, theirs) for weights in (folder / "adapter").glob("*.safetensors")
    ]
    assert_same_tensors(*learned, "adapter")
    assert_same_tensors(finished_run(mine).predictions, finished_run(theirs).predictions, "predictions")
    records = [finished_run(folder).to_json() for folder in (mine, theirs)]
    for record in records:
        assert record is not None
        record["history"] = without_times(record["history"])
        record["timings"] = record["timings"]["steps"]
        del record["wall_seconds"]
        # That it was resumed is all that a resumed run says of itself.
        record.pop("resumed_at", None)
    assert_same_tensors(*records, "run.json")
    # No file of a killed process is left behind, and no checkpoint; a disk of their own stays as an empty folder.
    assert not list(mine.glob("checkpoints/*"))
    assert {*os.listdir(mine)} - {"checkpoints"} == {*os.listdir(theirs)}
    assert sorted(os.listdir(mine / "adapter")) == sorted(os.listdir(theirs / "adapter"))
    snapshots = [sorted(path.name for path in folder.glob("trajectory/*")) for folder in (mine, theirs)]
    assert snapshots[0] == snapshots[1]
    for snapshot in (theirs / "trajectory").glob("*"):
        both = [load_file(run / "trajectory" / snapshot.name / "adapter_model.safetensors") for run in (mine, theirs)]
        assert_same_tensors(*both, snapshot.name)
