"""Which checkpoint of a `transformers.Trainer` a run can go on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

STATE = "trainer_state.json"


def last_checkpoint(output_dir: Path | str) -> str | None:
    """The newest checkpoint that was written to its end, or None if there is none.

    `Trainer.train(resume_from_checkpoint=True)` takes the newest folder, and fails on one that was cut off by a
    kill or a full disk. `trainer_state.json` is the last file of a checkpoint: where it is whole, all of it is.
    Where the newest one stands at the run's last step nothing is left to train: `Trainer` would make one more step.

    Args:
        output_dir: the Trainer's.

    Returns:
        A folder for `trainer.train(resume_from_checkpoint=...)`, which takes None as a new start.

    Example:
        >>> import tempfile
        >>> last_checkpoint(tempfile.mkdtemp()) is None
        True
    """
    newest = max(whole_checkpoints(Path(output_dir)), key=step_of, default=None)
    return None if newest is None else str(newest)


def whole_checkpoints(output_dir: Path) -> list[Path]:
    return [folder for folder in _checkpoints(output_dir) if _is_whole(folder)]


def discard_incomplete(output_dir: Path) -> None:
    """Delete the checkpoints that no run can go on from, so that their files mix with no later ones."""
    for folder in _checkpoints(output_dir):
        if not _is_whole(folder):
            shutil.rmtree(folder)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _checkpoints(output_dir: Path) -> list[Path]:
    found = output_dir.glob("checkpoint-*")
    return [path for path in found if path.is_dir() and path.name.removeprefix("checkpoint-").isdecimal()]


def _is_whole(checkpoint: Path) -> bool:
    state = checkpoint / STATE
    if not state.is_file():
        return False
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return True
