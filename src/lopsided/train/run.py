"""One run: a model, a task and a method become a run directory."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from lopsided.chain import ChainCallback, ChainEvent
from lopsided.checkpoint import DiskErrors
from lopsided.errors import LopsidedError
from lopsided.method import Method
from lopsided.optim import param_groups
from lopsided.resume import step_of
from lopsided.strict_json import strict
from lopsided.tasks import EncodedTask, Task, collator, encode, load_model, load_task
from lopsided.train.config import TrainConfig
from lopsided.train.figures import generalization_error, split_figures
from lopsided.train.measure import StepTimer, kept_bytes, machine, versions
from lopsided.train.prepare import prepare, save_trained
from lopsided.train.rundir import (
    SCHEMA,
    clear_leftovers,
    first_line,
    in_use,
    newest_checkpoint,
    read_run,
    write_predictions,
    write_run,
)
from lopsided.train.trainer import (
    CarefulTrainer,
    causal_reader,
    finish_rotation,
    restore,
    row_reader,
    rows_of,
    score_of,
    training_arguments,
)
from lopsided.train.trajectory import TrajectoryCallback, discard_after
from lopsided.tuner import trained_numbers

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class Data:
    """A task and its rows as tokens, which runs on the same model can share."""

    task: Task
    encoded: EncodedTask


def load_data(config: TrainConfig) -> Data:
    """The rows that a run reads, as tokens of its model."""
    return load_all(config)[0]


def load_all(config: TrainConfig) -> tuple[Data, Any, Any]:
    """The rows that a run reads, its model before any method is put on it, and the tokenizer."""
    task = load_task(
        config.task,
        label=config.label,
        metric=config.metric,
        make_split=config.make_split,
        rename_labels=config.rename_labels,
    )
    model, tokenizer = load_model(config.model, task, seed=config.seed)
    seq2seq = bool(model.config.is_encoder_decoder)
    return Data(task, encode(task, tokenizer, max_length=config.max_length, seq2seq=seq2seq)), model, tokenizer


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    data: Data | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Make one run, and return its record, which is also in `run.json`.

    The checkpoint with the lowest validation loss is kept; the figures come from test.

    Args:
        config: the run.
        resume: go on from the folder's last whole checkpoint.
        data: the loaded rows, if the caller has them already.
        callbacks: for `transformers.Trainer`, such as a progress bar.

    Raises:
        LopsidedError: for bad input, a folder in use, a folder that holds another run, a loss that is not
            finite. The record then says so, and the last good checkpoint stands.
    """
    with in_use(config.out):
        done = _check_folder(config, resume)
        if done is not None:
            return done
        return _Run(config, data, callbacks).go(resume)


def _check_folder(config: TrainConfig, resume: bool) -> dict[str, Any] | None:
    """The finished record, if there is nothing left to do."""
    record = read_run(config.out)
    # A run that ended before its first checkpoint, as one with bad input does, left nothing to lose.
    if record is None or (record["status"] != "finished" and newest_checkpoint(config.out) is None):
        return None
    if not resume:
        raise LopsidedError(
            f"{config.out} holds a run already ({record['status']}); expected a new folder; pass --resume to go on "
            "with it, or choose another --out"
        )
    asked, there = config.to_json(), record["config"]
    differing = [f"{key}={there.get(key)!r}, asked {asked[key]!r}" for key in asked if asked[key] != there.get(key)]
    if differing:
        raise LopsidedError(f"{config.out} holds a run with {'; '.join(differing)}; resume with its own options")
    return record if record["status"] == "finished" else None


@dataclass
class _Run:
    config: TrainConfig
    data: Data | None
    callbacks: Sequence[TrainerCallback]

    def go(self, resume: bool) -> dict[str, Any]:
        config, started = self.config, time.perf_counter()
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "status": "running",
            "config": config.to_json(),
            "method": config.resolve_method().parts(),
            "versions": versions(),
            "machine": machine(),
        }
        clear_leftovers(config.out)
        write_run(config.out, record)
        try:
            with DiskErrors(config.out):
                record |= self._train_and_measure(resume)
        except (LopsidedError, OSError, RuntimeError) as error:
            # A full disk may have no room for it.
            with suppress(OSError):
                write_run(config.out, {**record, "status": "failed", "error": first_line(error)})
            raise
        # What is returned is what a reader of the folder gets.
        record = strict({**record, "status": "finished", "wall_seconds": time.perf_counter() - started})
        write_run(config.out, record)
        return record

    def _train_and_measure(self, resume: bool) -> dict[str, Any]:
        config, method = self.config, self.config.resolve_method()
        data = self.data or load_data(config)
        task, encoded = data.task, data.encoded
        model, tokenizer = load_model(config.model, task, seed=config.seed)
        base = {
            "name": config.model,
            "type": model.config.model_type,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        seq2seq = bool(model.config.is_encoder_decoder)
        model = prepare(model, method, task, config)
        collate = collator(task, tokenizer, seq2seq=seq2seq)
        steps = _total_steps(config, len(encoded.splits["train"]))
        checkpoint = newest_checkpoint(config.out) if resume else None
        timer, chain = StepTimer(checkpoint), ChainCallback()
        optimizer = torch.optim.AdamW(param_groups(model, config.learning_rate, config.weight_decay))
        trainer = CarefulTrainer(
            model=model,
            args=training_arguments(config, steps),
            train_dataset=encoded.splits["train"],
            eval_dataset=sample_rows(encoded.splits["validation"], config.eval_rows),
            data_collator=collate,
            compute_metrics=score_of(task),
            preprocess_logits_for_metrics=(
                causal_reader if task.kind == "generation" and not seq2seq else row_reader(task.kind)
            ),
            optimizers=(optimizer, None),
            # The timer first: an advance of the chain is not part of a step.
            callbacks=[timer, chain, TrajectoryCallback(config, method), *self.callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        rows_in_batch = min(config.batch_size, len(encoded.splits["train"]))
        batch = trainer._prepare_inputs(collate([encoded.splits["train"][i] for i in range(rows_in_batch)]))
        with trainer.accelerator.autocast():
            kept = kept_bytes(model, batch)
        if checkpoint:
            finish_rotation(checkpoint)
        resumed_at = step_of(checkpoint) if checkpoint else 0
        discard_after(config.out, resumed_at)
        if checkpoint and resumed_at == steps:
            restore(trainer, checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

        adapter_bytes = save_trained(model, method, config.out / "adapter")
        rows = self._predict(trainer, task, encoded)
        write_predictions(config.out, rows)
        return {
            "model": base,
            "task": _task_record(task),
            "steps": steps,
            "learning_rate": config.learning_rate,
            "trained_parameters": trained_numbers(model),
            "metrics": {split: split_figures(task.metric, split_rows) for split, split_rows in rows.items()},
            "generalization_error": generalization_error(rows) if config.test else None,
            "best_step": trainer.state.best_global_step,
            # The closing entry is about this session, which may have begun at a checkpoint.
            "history": [entry for entry in trainer.state.log_history if "train_runtime" not in entry],
            "timings": timer.summary(),
            "kept_bytes": kept,
            "adapter_bytes": adapter_bytes,
            "chain": _chain_record(method, steps, chain, resumed_at=resumed_at),
        }

    def _predict(self, trainer: CarefulTrainer, task: Task, encoded: Any) -> dict[str, Rows]:
        most = {"train": self.config.train_rows, "validation": self.config.eval_rows}
        splits = {**encoded.splits, **encoded.out_of_domain}
        if not self.config.test:
            splits = {name: splits[name] for name in ("train", "validation")}
        rows = {}
        for split, dataset in splits.items():
            output = trainer.predict(sample_rows(dataset, most.get(split)))
            rows[split] = rows_of(task.kind, output.predictions, output.label_ids)
        return rows


def sample_rows(dataset: Dataset, most: int | None) -> Dataset:
    """At most that many rows, drawn once for all runs, shortest first, so that batches need little padding.

    Every method and seed sees the same rows in the same order, which paired comparisons rest on. Never the
    first rows: data sets come sorted by label.
    """
    kept = np.random.RandomState(0).permutation(len(dataset))[:most]
    lengths = np.array([len(ids) for ids in dataset["input_ids"]])
    return dataset.select(kept[np.argsort(lengths[kept], kind="stable")])


def _task_record(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "kind": task.kind,
        "labels": list(task.labels),
        "metric": dataclasses.asdict(task.metric),
        "rows": {split: len(rows) for split, rows in task.splits.items()},
        "out_of_domain": sorted(task.out_of_domain),
        "note": task.note,
    }


def _chain_record(method: Method, steps: int, callback: ChainCallback, *, resumed_at: int) -> dict[str, Any] | None:
    if method.chain is None:
        return None
    boundaries = method.chain.boundaries(steps)
    # The callback has checked that the checkpoint stands at the link that its step asks for.
    before = [ChainEvent(step, link) for link, step in enumerate(boundaries, 1) if step <= resumed_at]
    return {
        "links": len(boundaries) + 1,
        "boundaries": list(boundaries),
        "events": [dataclasses.asdict(event) for event in (*before, *callback.events)],
    }


def _total_steps(config: TrainConfig, rows: int) -> int:
    if config.steps is not None:
        return config.steps
    per_epoch = math.ceil(rows / (config.batch_size * config.accumulate))
    return max(1, round((config.epochs or 3.0) * per_epoch))
