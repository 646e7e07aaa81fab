"""`transformers.Trainer` as a run uses it: its arguments, rows for metrics, no step on a broken gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from lopsided.runs.config import TrainConfig
from lopsided.runs.facts import Predictions
from lopsided.runs.nonfinite import ADVICE, NonFinite, check_gradients, check_loss
from lopsided.tasks import Metric, Task
from lopsided.tasks.encode import IGNORED

# The best and the last.
CHECKPOINTS = 2


class CarefulTrainer(Trainer):
    """Stops before a number that is not finite can reach a weight or a checkpoint."""

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Compute a step's loss and gradients, and raise if one of them is not finite."""
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        step = self.state.global_step + 1
        check_loss(loss, step, self.model, lambda: self._loss_again(model, inputs))
        if self.accelerator.sync_gradients:
            check_gradients(self.model, step)
        return loss

    def _loss_again(self, model: nn.Module, inputs: Any) -> None:
        with self.compute_loss_context_manager():
            self.compute_loss(model, self._prepare_inputs(inputs))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as `Trainer` does, and raise if the loss is not finite."""
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        if not math.isfinite(metrics["eval_loss"]):
            raise NonFinite(f"the validation loss is {metrics['eval_loss']} at step {self.state.global_step}; {ADVICE}")
        return metrics


def training_arguments(config: TrainConfig, steps: int) -> TrainingArguments:
    """Return the run's configuration as `transformers.Trainer` takes it: evaluated and saved at even distances."""
    evaluations = min(config.evaluations, steps)
    every = math.ceil(steps / evaluations)
    return TrainingArguments(
        output_dir=str(config.out / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=2 * config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=CHECKPOINTS,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
        # A checkpoint holds no losses that wait to be logged, so the steps between two are a whole number of logs.
        logging_steps=next(n for n in range(max(1, every // 2), 0, -1) if every % n == 0),
        # A loss that is not finite must be seen, not averaged away.
        logging_nan_inf_filter=False,
        # Without it bf16 asks for a GPU.
        use_cpu=not torch.accelerator.is_available(),
        bf16=config.bf16,
        seed=config.seed,
        report_to=config.report_to,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def finish_rotation(checkpoint: Path) -> None:
    """Delete the checkpoints that a killed process was about to delete when it had written this one."""
    best = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).best_global_step
    rotate_checkpoints(str(checkpoint.parent), CHECKPOINTS, str(checkpoint.with_name(f"checkpoint-{best}")))


def restore(trainer: Trainer, checkpoint: Path) -> None:
    """Take up a run whose steps are all done: its history, and its best model.

    `Trainer.train` would take one more step there, unless the last one ends an epoch.
    """
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    # Next to the last one, wherever the run has been moved to.
    trainer.state.best_model_checkpoint = str(checkpoint.with_name(f"checkpoint-{trainer.state.best_global_step}"))
    trainer._load_best_model()


def row_reader(kind: str) -> Callable[[Any, Tensor], Tensor]:
    """Return what `Trainer` keeps of a batch's outputs: two numbers per row, instead of all logits.

    Shapes:
        classification: logits (n, classes), labels (n,) -> (n, 2): prediction, cross entropy.
        regression: outputs (n, 1), labels (n,) -> (n, 2): prediction, squared error.
        generation: logits (n, T, vocabulary), labels (n, T) -> (n, 4): tokens counted, their mean loss, how many are
            the most likely ones, whether the first is.
    """

    def read(outputs: Any, labels: Tensor) -> Tensor:
        logits = (outputs[0] if isinstance(outputs, tuple) else outputs).float()
        if kind == "classification":
            return torch.stack([logits.argmax(-1).float(), F.cross_entropy(logits, labels, reduction="none")], 1)
        if kind == "regression":
            prediction = logits.squeeze(-1)
            return torch.stack([prediction, (prediction - labels) ** 2], 1)
        return _token_rows(logits, labels)

    return read


def shift_for_causal(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pair each position with the token that it predicts, t with t + 1: (n, T, V), (n, T) -> (n, T-1, V), (n, T-1)."""
    return logits[:, :-1], labels[:, 1:]


def _token_rows(logits: Tensor, labels: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    is_learned = labels != IGNORED
    counts, is_right = is_learned.sum(1), (logits.argmax(-1) == labels) & is_learned
    first = is_learned.int().argmax(1, keepdim=True)
    columns = [counts, losses.sum(1) / counts.clamp(min=1), is_right.sum(1), is_right.gather(1, first).squeeze(1)]
    return torch.stack([column.float() for column in columns], 1)


def causal_reader(outputs: Any, labels: Tensor) -> Tensor:
    """Read rows as `row_reader("generation")` does, for a decoder-only model."""
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    return _token_rows(*shift_for_causal(logits.float(), labels))


def rows_of(kind: str, numbers: np.ndarray, labels: np.ndarray) -> Predictions:
    """Return the rows that metrics read, from what `row_reader` kept.

    Shapes:
        numbers: (n, 2), or (n, 4) of generation -> arrays of (n,) by name.
    """
    if kind == "generation":
        columns = {"tokens": np.int64, "loss": np.float64, "right_tokens": np.int64, "first_right": np.int64}
        return {name: numbers[:, i].astype(dtype) for i, (name, dtype) in enumerate(columns.items())}
    dtype = np.int64 if kind == "classification" else np.float64
    return {
        "prediction": numbers[:, 0].astype(dtype),
        "label": np.asarray(labels).reshape(-1).astype(dtype),
        "loss": numbers[:, 1].astype(np.float64),
    }


def score_of(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what computes the task's score in an evaluation during training."""
    metric: Metric = task.metric

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        if metric.entry.reads_answers:
            # None are written before training is over.
            return {}
        rows = rows_of(task.kind, prediction.predictions, prediction.label_ids)
        score = metric.value(rows)
        # An undefined score is left out of the history: trackers and JSON cannot hold NaN.
        return {"score": score} if math.isfinite(score) else {}

    return compute
