"""The checkpoints of a `transformers.Trainer` that a run can resume from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

STATE = "trainer_state.json"


def last_checkpoint(output_dir: Path | str) -> str | None:
    """Return the newest checkpoint that was written completely, or None if there is none.

    `Trainer.train(resume_from_checkpoint=True)` takes the newest folder, and fails if that one was cut off by a
    kill or a full disk. A checkpoint of the run's last step is returned, too: nothing is left to train then, and
    `Trainer` makes one more step unless that step ends an epoch.

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
    """Return the checkpoints that were written completely, in no order."""
    return [folder for folder in checkpoints_in(output_dir) if _is_whole(folder)]


def discard_incomplete(output_dir: Path) -> None:
    """Delete the checkpoints that were cut off, so that their files do not mix with those of later ones."""
    for folder in checkpoints_in(output_dir):
        if not _is_whole(folder):
            shutil.rmtree(folder)


def step_of(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was written, from its name."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def checkpoints_in(output_dir: Path) -> list[Path]:
    """Return the checkpoints, whole or not, in no order."""
    folders = output_dir.glob("checkpoint-*")
    return [path for path in folders if path.is_dir() and path.name.removeprefix("checkpoint-").isdecimal()]


def _is_whole(checkpoint: Path) -> bool:
    # Trainer writes this file last: if it is whole, so is the checkpoint.
    state = checkpoint / STATE
    if not state.is_file():
        return False
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return False
    return True
