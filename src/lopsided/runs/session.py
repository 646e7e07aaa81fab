"""The steps of one run: assemble its trainer, fit, measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from lopsided.calibrate import needs_calibration
from lopsided.files.checkpoints import step_of
from lopsided.method import Method
from lopsided.optim import ChainCallback, ChainEvent
from lopsided.runs.calibration import calibrated
from lopsided.runs.careful_trainer import (
    CarefulTrainer,
    adamw,
    finish_rotation,
    restore,
    score_of,
    training_arguments,
)
from lopsided.runs.config import TrainConfig
from lopsided.runs.directory import write_predictions
from lopsided.runs.evaluated_rows import evaluated_rows, rows_note, validation_rows
from lopsided.runs.facts import BaseModel, CalibrationFacts, ChainFacts, Predictions, TaskFacts
from lopsided.runs.flips import Flips
from lopsided.runs.further_rows import further_of, further_rows
from lopsided.runs.inputs import Data, Inputs
from lopsided.runs.measure import StepTimer, kept_bytes
from lopsided.runs.preflight import total_steps
from lopsided.runs.prepare import prepare, save_trained
from lopsided.runs.progress import RunProgress, Work
from lopsided.runs.record import RunResult
from lopsided.runs.saved_forms import FORMS
from lopsided.runs.scores import generalization_error, split_figures
from lopsided.runs.trajectory import TrajectoryCallback, discard_after
from lopsided.tasks.kinds import KINDS
from lopsided.tuner import trained_numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """One training session of a run: its trainer, and what has to be known about it afterwards.

    Args:
        base: the model that the run began with, before its method was put on it. model: with it.
        checkpoint: what the session goes on from; None begins the run.
        steps: of the whole run.
        timer, chain: callbacks of the trainer.
        kept_bytes: what autograd keeps for the backward pass of one step.
        calibration: how sketches were drawn from training rows in this session; None where none were.
    """

    config: TrainConfig
    data: Data
    base: BaseModel
    model: Any
    trainer: CarefulTrainer
    timer: StepTimer
    chain: ChainCallback
    checkpoint: Path | None
    steps: int
    kept_bytes: int
    calibration: CalibrationFacts | None

    @property
    def method(self) -> Method:
        """What is trained."""
        return self.config.resolve_method()

    @property
    def resumed_at(self) -> int:
        """The step that the session goes on from; 0 begins the run."""
        return 0 if self.checkpoint is None else step_of(self.checkpoint)


def assemble(
    config: TrainConfig, inputs: Inputs, *, callbacks: Sequence[TrainerCallback], checkpoint: Path | None
) -> Session:
    """Put the method on the model, and build the trainer.

    Args:
        inputs: its model is changed.
        callbacks: for the trainer.
        checkpoint: what the session goes on from.
    """
    data, base = inputs.data, _base_model(config, inputs)
    method, steps = config.resolve_method(), total_steps(config, len(data.encoded.splits["train"]))
    model = prepare(inputs.model, method, data.task, config, steps)
    timer, chain = StepTimer(checkpoint), ChainCallback()
    # The timer first: an advance of the chain is not part of a step.
    of_form = FORMS[method.side.saved_as].callbacks(method, checkpoint)
    own = [timer, chain, *of_form, TrajectoryCallback(config, method)]
    trainer = trainer_for(config, data, model, steps, [*own, *callbacks])
    if checkpoint is not None and needs_calibration(model):
        # The sketches are in the checkpoint. `Trainer.train` would load them, too late for the measurement below.
        trainer._load_from_checkpoint(str(checkpoint))
    # After `Trainer` has put the model on its device.
    calibration = calibrated(model, config, data)
    for callback in callbacks:
        if isinstance(callback, RunProgress):
            callback.begin(_work(config, data, trainer, steps), 0 if checkpoint is None else step_of(checkpoint))
    return Session(
        config=config,
        data=data,
        base=base,
        model=model,
        trainer=trainer,
        timer=timer,
        chain=chain,
        checkpoint=checkpoint,
        steps=steps,
        kept_bytes=_kept_bytes(trainer, model, data, config.batch_size),
        calibration=calibration,
    )


def fit(session: Session) -> None:
    """Train to the last step, and load the checkpoint with the lowest validation loss."""
    checkpoint, trainer = session.checkpoint, session.trainer
    if checkpoint is not None:
        finish_rotation(checkpoint)
    discard_after(session.config.out, session.resumed_at)
    if checkpoint is not None and session.resumed_at == session.steps:
        restore(trainer, checkpoint)
    else:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def measure(session: Session) -> RunResult:
    """Save what the run learned and its answers to each split's rows, and compute its figures from these."""
    config, task, trainer = session.config, session.data.task, session.trainer
    adapter_bytes = save_trained(session.model, session.method, config.out / "adapter")
    predictions = _predictions(session)
    write_predictions(config.out, predictions)
    return RunResult(
        base=session.base,
        task=_task_facts(config, session.data),
        steps=session.steps,
        learning_rate=config.learning_rate,
        trained_parameters=trained_numbers(session.model),
        metrics={split: split_figures(task.metric, rows, task.also) for split, rows in predictions.items()},
        generalization_error=generalization_error(predictions) if config.test else None,
        best_step=trainer.state.best_global_step,
        # The closing entry is about this session, which may have begun at a checkpoint.
        history=[entry for entry in trainer.state.log_history if "train_runtime" not in entry],
        step_time=session.timer.summary(),
        kept_bytes=session.kept_bytes,
        adapter_bytes=adapter_bytes,
        chain=_chain_facts(session),
    )


def _base_model(config: TrainConfig, inputs: Inputs) -> BaseModel:
    parameters = sum(parameter.numel() for parameter in inputs.model.parameters())
    return BaseModel(name=config.model, type=inputs.model.config.model_type, parameters=parameters)


def trainer_for(
    config: TrainConfig, data: Data, model: Any, steps: int, callbacks: Sequence[TrainerCallback]
) -> CarefulTrainer:
    """Return the trainer of a run.

    Args:
        model: with the method on it.
        steps: of the whole run.
        callbacks: all that it has besides those of transformers.
    """
    task, splits = data.task, data.encoded.splits
    optimizer = adamw(config, model, config.learning_rate)
    arguments = training_arguments(config, steps)
    # Of rows that a collator picks from, `Trainer` must not leave out what the model does not name.
    arguments.remove_unused_columns = not data.collator_picks
    trainer = CarefulTrainer(
        form=FORMS[config.resolve_method().side.saved_as],
        data=data,
        flips=Flips(config.seed, arguments.process_index) if config.flip else None,
        by_length=config.group_by_length,
        model=model,
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=validation_rows(config, data),
        compute_metrics=score_of(task),
        optimizers=(optimizer, None),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _kept_bytes(trainer: CarefulTrainer, model: Any, data: Data, batch_size: int) -> int:
    rows = data.encoded.splits["train"]
    batch = data.collator()([rows[i] for i in range(min(batch_size, len(rows)))])
    with trainer.accelerator.autocast():
        return kept_bytes(model, trainer._prepare_inputs(batch))


def _predictions(session: Session) -> dict[str, Predictions]:
    kind = KINDS[session.data.task.kind]
    predictions: dict[str, Predictions] = {}
    for split, rows in evaluated_rows(session.config, session.data).items():
        output = session.trainer.predict(rows.encoded)
        further = further_rows(session.trainer, session.config, session.data, split, rows.texts)
        predictions[split] = {**kind.rows(output.predictions), **further}
    return predictions


def _work(config: TrainConfig, data: Data, trainer: CarefulTrainer, steps: int) -> Work:
    size = trainer.args.eval_batch_size
    final = []
    for split, rows in evaluated_rows(config, data).items():
        batches = math.ceil(len(rows.encoded) / size)
        final += [(split, batches), *((f"answers to {split}", batches) for _ in further_of(data, split))]
    return Work(
        steps=steps,
        evaluations=math.ceil(steps / trainer.args.eval_steps),
        validation=math.ceil(len(trainer.eval_dataset) / size),
        final=tuple(final),
    )


def _task_facts(config: TrainConfig, data: Data) -> TaskFacts:
    task, reading = data.task, data.task.reading
    return TaskFacts(
        name=task.name,
        kind=task.kind,
        labels=task.labels,
        metric=task.metric.name,
        greater_is_better=task.metric.greater_is_better,
        rows={split: len(rows) for split, rows in task.splits.items()},
        out_of_domain=tuple(sorted(task.out_of_domain)),
        note=rows_note(config, data),
        shape=data.described,
        columns=None if reading is None else reading.columns,
        left_out=None if reading is None else reading.left_out,
        modality=task.modality,
        also=task.also,
    )


def _chain_facts(session: Session) -> ChainFacts | None:
    chain = session.method.chain
    if chain is None:
        return None
    boundaries = tuple(chain.boundaries(session.steps))
    # The callback has checked that the checkpoint stands at the link that its step asks for.
    before = [ChainEvent(step, link) for link, step in enumerate(boundaries, 1) if step <= session.resumed_at]
    events = (*before, *session.chain.events)
    return ChainFacts(links=len(boundaries) + 1, boundaries=boundaries, events=events, jumps=chain.jumps)
