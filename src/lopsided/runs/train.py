"""One run: a model, a task and a method become a run directory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from lopsided.errors import LopsidedError
from lopsided.files.atomic import DiskErrors
from lopsided.files.checkpoints import step_of
from lopsided.files.strict_json import strict
from lopsided.method import Method
from lopsided.models.load import load_model
from lopsided.optim import ChainCallback, ChainEvent, param_groups
from lopsided.runs.config import TrainConfig
from lopsided.runs.directory import (
    SCHEMA,
    check_place,
    clear_leftovers,
    in_use,
    is_begun,
    newest_checkpoint,
    read_run,
    write_predictions,
    write_run,
)
from lopsided.runs.ending import recorded, terminable
from lopsided.runs.inputs import Data, load_all
from lopsided.runs.measure import StepTimer, kept_bytes, machine, versions
from lopsided.runs.preflight import preflight, total_steps
from lopsided.runs.prepare import prepare, save_trained
from lopsided.runs.scores import generalization_error, split_figures
from lopsided.runs.trainer import (
    CarefulTrainer,
    causal_reader,
    finish_rotation,
    restore,
    row_reader,
    rows_of,
    score_of,
    training_arguments,
)
from lopsided.runs.trajectory import TrajectoryCallback, discard_after
from lopsided.tasks import Task, collator
from lopsided.tuner import trained_numbers

Rows = dict[str, np.ndarray]
# A run's rows, its model before any method is put on it, and the tokenizer.
Loaded = tuple[Data, Any, Any]


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    data: Data | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    note: Callable[[str], None] = lambda text: None,
    checked: bool = False,
) -> dict[str, Any]:
    """Make one run, and return its record, which is also in `run.json`.

    The checkpoint with the lowest validation loss is kept; the figures come from test. What can't work is refused
    before the folder is made.

    Args:
        config: the run.
        resume: go on from the folder's last whole checkpoint.
        data: the loaded rows, if the caller has them already.
        callbacks: for `transformers.Trainer`, such as a progress bar.
        note: tells a person how the rows are read, before the first step.
        checked: whether the caller has made the `preflight` of this run.

    Raises:
        LopsidedError: for bad input, a folder in use, a folder that holds another run, a loss that is not
            finite. The record then says so, and the last good checkpoint stands.
    """
    check_place(config.out)
    with ExitStack() as held:
        # A new folder is made after the preflight, so that a refusal leaves nothing behind.
        begun = is_begun(config.out)
        loaded = None if begun or checked else _checked(config, data)
        held.enter_context(in_use(config.out))
        done = _check_folder(config, resume)
        if done is not None:
            return done
        if begun and not checked:
            loaded = _checked(config, data)
        held.enter_context(terminable())
        return _Run(config, data, callbacks, note, loaded).go(resume)


def _checked(config: TrainConfig, data: Data | None) -> Loaded:
    """The run's parts, after its preflight."""
    if data is None:
        data, model, tokenizer = load_all(config)
    else:
        model, tokenizer = load_model(config.model, data.task, seed=config.seed)
    preflight([config], data, model, tokenizer)
    return data, model, tokenizer


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
    note: Callable[[str], None]
    loaded: Loaded | None

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
        with recorded(config.out, record), DiskErrors(config.out):
            record |= self._train_and_measure(resume)
        # What is returned is what a reader of the folder gets.
        record = strict({**record, "status": "finished", "wall_seconds": time.perf_counter() - started})
        write_run(config.out, record)
        return record

    def _train_and_measure(self, resume: bool) -> dict[str, Any]:
        config, method = self.config, self.config.resolve_method()
        data, model, tokenizer = self._load()
        task, encoded = data.task, data.encoded
        base = {
            "name": config.model,
            "type": model.config.model_type,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        seq2seq = bool(model.config.is_encoder_decoder)
        model = prepare(model, method, task, config)
        collate = collator(task, tokenizer, seq2seq=seq2seq)
        steps = total_steps(config, len(encoded.splits["train"]))
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
        if data.described:
            self.note(data.described)
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
            "task": _task_record(data),
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

    def _load(self) -> Loaded:
        config, loaded, self.loaded = self.config, self.loaded, None
        if loaded is not None:
            return loaded
        if self.data is None:
            return load_all(config)
        return self.data, *load_model(config.model, self.data.task, seed=config.seed)

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


def _task_record(data: Data) -> dict[str, Any]:
    task = data.task
    return {
        "name": task.name,
        "kind": task.kind,
        "labels": list(task.labels),
        "metric": dataclasses.asdict(task.metric),
        "rows": {split: len(rows) for split, rows in task.splits.items()},
        "out_of_domain": sorted(task.out_of_domain),
        "note": task.note,
        # Empty, and without `columns` and `left_out`, where the rows were not read from a user's columns.
        "shape": data.described,
        **({} if task.reading is None else task.reading.to_json()),
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
