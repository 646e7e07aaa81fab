"""A progress bar over the steps of a run."""

from __future__ import annotations

from typing import IO, Any

from rich.progress import Progress, TaskID
from transformers import TrainerCallback


class ProgressBar(TrainerCallback):
    """Moves one task of a `rich.progress.Progress`, and shows the newest loss next to it."""

    def __init__(self, progress: Progress, label: str) -> None:
        self.progress, self.label = progress, label
        self.task: TaskID | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the bar."""
        self.task = self.progress.add_task(self.label, total=state.max_steps, completed=state.global_step, note="")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar by one step."""
        assert self.task is not None
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest loss."""
        if self.task is None or not logs:
            return
        if "eval_loss" in logs:
            self.progress.update(self.task, note=f"validation loss {float(logs['eval_loss']):.3f}")
        elif "loss" in logs:
            self.progress.update(self.task, note=f"loss {float(logs['loss']):.3f}")


class ProgressLine(TrainerCallback):
    """Writes one line when a run's steps are done, where a bar can't move."""

    def __init__(self, file: IO[str], label: str) -> None:
        self.file, self.label = file, label

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the line."""
        best = "not evaluated"
        if state.best_metric is not None:
            best = f"lowest validation loss {state.best_metric:.3f} at step {state.best_global_step}"
        print(f"{self.label}: {state.global_step} steps, {best}", file=self.file, flush=True)
