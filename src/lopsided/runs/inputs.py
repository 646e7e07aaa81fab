"""What a run begins with: its rows as its model reads them, and that model before any method is put on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from lopsided.errors import LopsidedError
from lopsided.models.load import is_encoder_decoder, load_model, processor_of
from lopsided.runs.config import TrainConfig
from lopsided.tasks import EncodedTask, Task, collator, encode, load_task
from lopsided.tasks.collators import Collate
from lopsided.tasks.encode import answer_collator
from lopsided.tasks.kinds import KINDS

# The settings that say how a task's rows are read, as `load_task` takes them.
READING = ("data", "label", "metric", "make_split", "rename_labels", "ignore_columns", "train_size", "pool_files")


@dataclass(frozen=True, kw_only=True)
class Data:
    """A task and its rows as a model reads them, which runs on the same model can share.

    Args:
        task: what is learned, with its rows as they came.
        encoded: the rows as tokens, or as images.
        processor: the tokenizer that made them, or the image processor of the model.
        seq2seq: whether they are made for an encoder-decoder.
    """

    task: Task
    encoded: EncodedTask
    processor: Any
    seq2seq: bool

    @property
    def described(self) -> str:
        """How the rows are read and learned, in one line; "" where there is nothing of a user's to tell."""
        return "; ".join(filter(None, [self.task.described, self.encoded.how]))

    @property
    def is_causal(self) -> bool:
        """Whether each position of the model predicts the next token, and must not see it."""
        return KINDS[self.task.kind].is_causal and not self.seq2seq

    @property
    def collator_picks(self) -> bool:
        """Whether the collator picks from a row's columns, which are then not those that the model names."""
        return self.task.modality == "image" or bool(KINDS[self.task.kind].asides)

    def collator(self) -> Collate:
        """Return what makes rows a batch to train on."""
        return collator(self.task, self.processor)

    def answer_collator(self) -> Collate:
        """Return what makes rows a batch to answer."""
        return answer_collator(self.task, self.processor)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that a run begins with.

    Args:
        data: the rows.
        model: before any method is put on it; training changes it, so each run needs one of its own.
    """

    data: Data
    model: PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the caller of `train` has prepared for a run.

    Args:
        load: loads what the run begins with, rows and a model of the run's own; a run that is finished already does
            not call it. A `ModelCache` has such a function, and so has `with_data`.
        checked: whether the caller has made the `preflight` of this run.
    """

    load: Callable[[TrainConfig], Inputs]
    checked: bool = False


def with_data(data: Data) -> Prepared:
    """Return the preparation of runs whose rows are loaded already, and whose models are not."""
    return Prepared(load=lambda config: load_inputs(config, data))


def load_data(config: TrainConfig) -> Data:
    """Load the rows that a run reads, as tokens of its model, whose weights are not loaded."""
    task = task_of(config)
    processor, seq2seq = processor_of(config.model, task.modality), is_encoder_decoder(config.model)
    return encoded(config, task, processor, seq2seq=seq2seq)


def load_inputs(config: TrainConfig, data: Data | None = None) -> Inputs:
    """Load the rows that a run reads, unless they are given, and its model.

    Equal configurations give equal bits: the seed decides the weights of a new head, whatever was drawn before.
    """
    task = task_of(config) if data is None else data.task
    model, processor = load_model(config.model, task, seed=config.seed)
    if data is None:
        data = encoded(config, task, processor, seq2seq=bool(model.config.is_encoder_decoder))
    return Inputs(data=data, model=model)


def reading_of(config: TrainConfig) -> tuple[object, ...]:
    """Return all of a configuration that its rows as tokens depend on: two runs with equal ones share their `Data`."""
    settings = (getattr(config, name) for name in (*READING, "also", "model", "task", "max_length"))
    # Plain data has no hash of its own; its text has, and tells the same apart.
    return tuple(repr(value) for value in settings)


def task_of(config: TrainConfig) -> Task:
    """Load the rows that a run reads, as text."""
    task = load_task(config.task, **{name: getattr(config, name) for name in READING})
    return task if config.also is None else dataclasses.replace(task, also=tuple(config.also))


def encoded(config: TrainConfig, task: Task, processor: Any, *, seq2seq: bool) -> Data:
    """Return a task's rows as the run's model reads them.

    Args:
        config: of the run; says how long rows may be.
        task: what is learned.
        processor: the model's tokenizer or image processor.
        seq2seq: whether the model is an encoder-decoder.

    Raises:
        LopsidedError: if images are to be mirrored and the rows have none.
    """
    if config.flip and task.modality != "image":
        raise LopsidedError(f"flip mirrors images; task {task.name} has rows of {task.modality}; leave it out")
    rows = encode(task, processor, max_length=config.max_length, seq2seq=seq2seq)
    return Data(task=task, encoded=rows, processor=processor, seq2seq=seq2seq)
