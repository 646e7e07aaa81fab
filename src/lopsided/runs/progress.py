"""How far a run is, and how long it still takes: steps, evaluations on the way, and the splits at its end."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich.progress import Progress, TaskID
from transformers import TrainerCallback

from lopsided.formatting import duration

# A batch that is evaluated has twice the rows of one that is trained on, and no backward pass, which is two thirds.
EVALUATED = 2 / 3
# No log needs more lines than one per that many seconds.
SECONDS_BETWEEN_LINES = 30.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run consists of, in steps and in batches.

    Args:
        steps: of the optimizer.
        evaluations: on the way.
        validation: batches of each of them.
        final: the passes at the end, each with its name and its batches.
    """

    steps: int
    evaluations: int
    validation: int
    final: Sequence[tuple[str, int]]


class RunProgress(TrainerCallback, ABC):
    """Counts what a run has done, and tells its subclass; a run's session gives it the `Work` before the first step.

    A pass over a split is an evaluation on the way, or one of those at the end. Answers that are written take longer
    than their batches are counted for.
    """

    def __init__(self) -> None:
        self.work = Work(steps=0, evaluations=0, validation=0, final=())
        self.step = 0
        self._evaluations = self._passes = self._batches = 0
        self._timed = {"step": (0.0, 0), "batch": (0.0, 0)}
        self._since = time.perf_counter()

    @abstractmethod
    def show_step(self) -> None:
        """Show that a step is done."""

    @abstractmethod
    def show_batch(self, what: str, done: int, total: int) -> None:
        """Show that a batch has been evaluated: which pass it is of, and how many of its batches are done."""

    @abstractmethod
    def show_pass(self, what: str, metrics: Mapping[str, float]) -> None:
        """Show that a pass is over; that of an evaluation on the way has its figures."""

    @abstractmethod
    def show_loss(self, loss: float) -> None:
        """Show a training loss."""

    @abstractmethod
    def show_trained(self, state: Any) -> None:
        """Show that all steps are done."""

    def begin(self, work: Work, step: int) -> None:
        """Take what is to be done, and the step that the run goes on from."""
        self.work, self.step = work, step
        self._evaluations = math.floor(work.evaluations * step / work.steps)

    @property
    def seconds_left(self) -> float | None:
        """How long the run still takes, at the pace of its session so far; None before the first step."""
        spent, steps = self._timed["step"]
        evaluating, batches = self._timed["batch"]
        if not steps and not batches:
            return None
        of_step = spent / steps if steps else 0.0
        of_batch = evaluating / batches if batches else EVALUATED * of_step
        left = max(0, self.work.evaluations - self._evaluations) * self.work.validation
        left += sum(batches for _, batches in self.work.final[self._passes :]) - self._batches
        return of_step * (self.work.steps - self.step) + of_batch * max(0, left)

    @property
    def left(self) -> str:
        """How long the run still takes, in words; "" where that is not known."""
        return "" if self.seconds_left is None else f"{duration(self.seconds_left)} left"

    @property
    def _pass(self) -> str:
        """What is evaluated now."""
        if self.step < self.work.steps or self._evaluations < self.work.evaluations:
            return "validation"
        return self.work.final[self._passes][0]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step."""
        self._count("step")
        self.step = state.global_step
        self.show_step()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a batch of an evaluation."""
        if self._batches == 0:
            # The first one's time has the loading in it, and what lies between.
            self._since = time.perf_counter()
        else:
            self._count("batch")
        self._batches += 1
        self.show_batch(self._pass, self._batches, len(kwargs["eval_dataloader"]))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count an evaluation on the way."""
        self._batches, self._evaluations = 0, self._evaluations + 1
        self.show_pass("validation", kwargs["metrics"])

    def on_predict(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a pass at the end."""
        what = self._pass
        self._batches, self._passes = 0, self._passes + 1
        self.show_pass(what, {})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the newest training loss."""
        if logs and "loss" in logs:
            self.show_loss(float(logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show that the steps are done."""
        # A run that was cut off after an evaluation, before its checkpoint, makes that evaluation again.
        self._evaluations = self.work.evaluations
        self.show_trained(state)

    def _count(self, kind: str) -> None:
        now = time.perf_counter()
        seconds, number = self._timed[kind]
        self._timed[kind] = seconds + now - self._since, number + 1
        self._since = now


class ProgressBar(RunProgress):
    """Moves a task of a `rich.progress.Progress` over the steps, and another one over each evaluation."""

    def __init__(self, progress: Progress, label: str) -> None:
        super().__init__()
        self.progress, self.label = progress, label
        self.task: TaskID | None = None
        self.inner: TaskID | None = None

    def begin(self, work: Work, step: int) -> None:
        """Add the bar."""
        super().begin(work, step)
        self.task = self.progress.add_task(self.label, total=work.steps, completed=step, note="", left="")

    def show_step(self) -> None:
        """Move the bar by one step."""
        self._update(completed=self.step)

    def show_loss(self, loss: float) -> None:
        """Write the newest loss next to the bar."""
        self._update(note=f"loss {loss:.3f}")

    def show_batch(self, what: str, done: int, total: int) -> None:
        """Move the bar of the evaluation."""
        if self.inner is None:
            self.inner = self.progress.add_task(what, total=total, note="", left="")
        self.progress.update(self.inner, completed=done)
        self._update()

    def show_pass(self, what: str, metrics: Mapping[str, float]) -> None:
        """Take the evaluation's bar away, and write its loss next to the run's."""
        if self.inner is not None:
            self.progress.remove_task(self.inner)
            self.inner = None
        self._update(**({"note": f"validation loss {metrics['eval_loss']:.3f}"} if metrics else {}))

    def show_trained(self, state: Any) -> None:
        """Leave the bar at its end."""
        self._update(completed=self.step)

    def _update(self, **fields: Any) -> None:
        assert self.task is not None, "a session begins its progress before its first step"
        self.progress.update(self.task, left=self.left, **fields)


class ProgressLine(RunProgress):
    """Writes lines where a bar can't move: one when a run's steps are done, and before it one per evaluation at most.

    Args:
        file: where to.
        label: of the run.
        every: the fewest seconds between two lines of a run.
        at_end: whether it writes one when the run's steps are done.
    """

    def __init__(self, file: IO[str], label: str, *, every: float = SECONDS_BETWEEN_LINES, at_end: bool = True) -> None:
        super().__init__()
        self.file, self.label, self.every, self.at_end = file, label, every, at_end
        self._loss: float | None = None
        self._last = time.monotonic()

    def show_step(self) -> None:
        """Write nothing."""

    def show_batch(self, what: str, done: int, total: int) -> None:
        """Write nothing."""

    def show_loss(self, loss: float) -> None:
        """Keep the loss for the next line."""
        self._loss = loss

    def show_pass(self, what: str, metrics: Mapping[str, float]) -> None:
        """Write how far the run is, unless it has just been written."""
        if time.monotonic() - self._last < self.every:
            return
        figures = [] if self._loss is None or not metrics else [f"loss {self._loss:.3f}"]
        figures += [f"validation loss {metrics['eval_loss']:.3f}"] if metrics else [f"{what} evaluated"]
        figures += [f"score {metrics['eval_score']:.4f}"] if "eval_score" in metrics else []
        self._write(", ".join([f"step {self.step} of {self.work.steps}", *figures, *filter(None, [self.left])]))

    def show_trained(self, state: Any) -> None:
        """Write what the steps came to."""
        if not self.at_end:
            return
        best = "not evaluated"
        if state.best_metric is not None:
            best = f"lowest validation loss {state.best_metric:.3f} at step {state.best_global_step}"
        self._write(f"{state.global_step} steps, {best}")

    def _write(self, text: str) -> None:
        print(f"{self.label}: {text}", file=self.file, flush=True)
        self._last = time.monotonic()
