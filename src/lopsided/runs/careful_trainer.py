"""`transformers.Trainer` as a run uses it: its arguments, rows for metrics, no step on a broken gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Trainer, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from lopsided.optim.groups import param_groups
from lopsided.runs.config import TrainConfig
from lopsided.runs.flips import Flips
from lopsided.runs.inputs import Data
from lopsided.runs.length_batches import LengthBatches, row_lengths
from lopsided.runs.nonfinite import ADVICE, NonFinite, check_gradients, check_loss
from lopsided.runs.saved_forms import SavedForm
from lopsided.tasks import Metric, Task
from lopsided.tasks.kinds import KINDS

# The best and the last.
CHECKPOINTS = 2
# Of transformers' Trainer, and so of every run that says nothing.
MAX_GRAD_NORM = 1.0
# Of torch's AdamW.
BETAS = (0.9, 0.999)


class CarefulTrainer(Trainer):
    """A trainer that stops before a number that is not finite can reach a weight or a checkpoint.

    It saves only what trains, and keeps a few numbers per row of the model's answers.

    Args:
        data: the task's rows; they say how batches are made, to train on and to answer, and what is kept of an answer.
        flips: mirrors images of training batches; None where none are.
        by_length: whether a training batch has rows of about equal length.
        form: how what trains is written into checkpoints, and put back into the model.
        arguments: for `Trainer`.
    """

    compute_metrics: Any

    def __init__(
        self, *, data: Data, form: SavedForm, flips: Flips | None = None, by_length: bool = False, **arguments: Any
    ) -> None:
        super().__init__(data_collator=data.collator(), **arguments)
        self._data, self._kind, self._form = data, KINDS[data.task.kind], form
        self._flips, self._by_length = flips, by_length

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write what trains into a checkpoint; `Trainer` would write the whole model into every one."""
        if state_dict is not None:
            # Gathered from the processes of a sharded model, whose own parameters are parts.
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._form.checkpoint(self.accelerator.unwrap_model(self.model), folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._form.restore(self.model, Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._form.restore(self.model, Path(self.state.best_model_checkpoint)):
            super()._load_best_model()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self._by_length:
            return super()._get_train_sampler(train_dataset)
        rows = self.train_dataset if train_dataset is None else train_dataset
        # A run that is resumed begins with the epoch that its checkpoint is in.
        return LengthBatches(
            row_lengths(rows), self.args.train_batch_size, self.args.seed, lambda: int(self.state.epoch or 0)
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return the loader of the rows that checkpoints are chosen on."""
        with self._answering():
            loader: DataLoader[Any] = super().get_eval_dataloader(eval_dataset)
        return loader

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Return the loader of the rows of `predict`."""
        with self._answering():
            loader: DataLoader[Any] = super().get_test_dataloader(test_dataset)
        return loader

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Make loaders of batches to answer inside the context: a loader keeps the collator that it is made with."""
        self.data_collator = self._data.answer_collator()
        try:
            yield
        finally:
            self.data_collator = self._data.collator()

    @contextmanager
    def asked(self, data: Data) -> Iterator[None]:
        """Answer rows of another task in `predict` inside the context, such as the same prompts with options."""
        own: tuple[Any, ...] = self._data, self.compute_metrics, self.args.remove_unused_columns
        self._data, self._kind, self.compute_metrics = data, KINDS[data.task.kind], None
        self.args.remove_unused_columns = not data.collator_picks
        try:
            yield
        finally:
            self._data, self.compute_metrics, self.args.remove_unused_columns = own
            self._kind, self.data_collator = KINDS[self._data.task.kind], self._data.collator()

    def prediction_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        """Compute a batch's loss, and what its kind of task keeps of the outputs in place of all logits."""
        batch = self._prepare_inputs(inputs)
        asides = {name: batch.pop(name) for name in self._kind.asides}
        loss, outputs, labels = super().prediction_step(model, batch, *args, **kwargs)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        numbers = self._kind.read(logits.float(), {**asides, "labels": labels}, self._data.is_causal)
        # `Trainer` computes metrics only where it has labels; these are among the numbers.
        return loss, numbers, numbers

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Compute a step's loss and gradients, and raise if one of them is not finite."""
        if self._flips is not None:
            inputs = self._flips(inputs, self.state.global_step)
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


def max_grad_norm(config: TrainConfig) -> float:
    """Return the norm to which a step's gradient is clipped; 0 for none."""
    return MAX_GRAD_NORM if config.max_grad_norm is None else config.max_grad_norm


def adamw(config: TrainConfig, model: nn.Module, rate: float) -> torch.optim.AdamW:
    """Return the optimizer of a run at a rate, over all that the model trains."""
    betas = (BETAS[0], BETAS[1] if config.adam_beta2 is None else config.adam_beta2)
    return torch.optim.AdamW(param_groups(model, rate, config.weight_decay), betas=betas)


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
        max_grad_norm=max_grad_norm(config),
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
    """Restore a run whose steps are all done: its history, and its best model.

    `Trainer.train` would take one more step there, unless the last one ends an epoch.
    """
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    # Next to the last one, wherever the run has been moved to.
    trainer.state.best_model_checkpoint = str(checkpoint.with_name(f"checkpoint-{trainer.state.best_global_step}"))
    trainer._load_best_model()


def score_of(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what computes the task's score in an evaluation during training."""
    metric: Metric = task.metric

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        if metric.entry.further:
            # Made when training is over.
            return {}
        rows = KINDS[task.kind].rows(prediction.predictions)
        score = metric.value(rows)
        # An undefined score is left out of the history: trackers and JSON cannot hold NaN.
        return {"score": score} if math.isfinite(score) else {}

    return compute
