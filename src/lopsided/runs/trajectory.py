"""What a run had learned at each evaluation, in its trajectory.

RUN/trajectory/step-N/    as `adapter/` is written, at step N
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from lopsided.method import Method
from lopsided.runs.config import TrainConfig
from lopsided.runs.prepare import save_trained

FOLDER = "trajectory"
PREFIX = "step-"


class TrajectoryCallback(TrainerCallback):
    """Keeps what the model has learned at each evaluation.

    An evaluation comes before its checkpoint, so a run that goes on from a checkpoint has all snapshots up to it.

    Args:
        config: of the run; `trajectory` says whether anything is kept.
        method: says what `save_trained` writes.
    """

    def __init__(self, config: TrainConfig, method: Method) -> None:
        self.out, self.method = config.out, method
        self.keeps = method.side.on_base if config.trajectory is None else config.trajectory

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep a snapshot of this step."""
        # The trainer stops at a loss that is not finite, with an error that says more than a snapshot's would.
        if self.keeps and math.isfinite(kwargs["metrics"]["eval_loss"]):
            save_trained(kwargs["model"], self.method, self.out / FOLDER / f"{PREFIX}{state.global_step}")


def snapshots(folder: Path) -> dict[int, Path]:
    """Return the snapshots of a run directory, by step.

    Example:
        >>> snapshots(Path("no-such-run"))
        {}
    """
    paths = {path.name.removeprefix(PREFIX): path for path in (folder / FOLDER).glob(f"{PREFIX}*") if path.is_dir()}
    return {int(step): paths[step] for step in sorted((name for name in paths if name.isdecimal()), key=int)}


def discard_after(folder: Path, step: int) -> None:
    """Delete the snapshots of later steps: a run that goes on from `step` makes them again."""
    for number, path in snapshots(folder).items():
        if number > step:
            shutil.rmtree(path)
