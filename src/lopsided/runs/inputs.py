"""What a run begins with: its rows as tokens, its model before any method is put on it, and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lopsided.models.load import is_encoder_decoder, load_model, load_tokenizer
from lopsided.runs.config import TrainConfig
from lopsided.tasks import EncodedTask, Task, collator, encode, load_task


@dataclass(frozen=True)
class Data:
    """A task and its rows as tokens, which runs on the same model can share.

    Args:
        tokenizer: the one that made them. seq2seq: whether they are made for an encoder-decoder.
    """

    task: Task
    encoded: EncodedTask
    tokenizer: Any = None
    seq2seq: bool = False

    @property
    def described(self) -> str:
        """How the rows are read and learned, in one line; "" where there is nothing of a user's to tell."""
        return "; ".join(filter(None, [self.task.described, self.encoded.how]))

    def collator(self) -> Callable[[list[Any]], Any]:
        """Return what pads rows to a batch."""
        return collator(self.task, self.tokenizer, seq2seq=self.seq2seq)


def load_data(config: TrainConfig) -> Data:
    """The rows that a run reads, as tokens of its model."""
    return load_all(config)[0]


def load_all(config: TrainConfig) -> tuple[Data, Any, Any]:
    """The rows that a run reads, its model before any method is put on it, and the tokenizer."""
    task = _load_task(config)
    model, tokenizer = load_model(config.model, task, seed=config.seed)
    return _encoded(config, task, tokenizer, bool(model.config.is_encoder_decoder)), model, tokenizer


def load_rows(config: TrainConfig) -> Data:
    """Load the rows that a run reads, as tokens of its model, whose weights are not loaded."""
    return _encoded(config, _load_task(config), load_tokenizer(config.model), is_encoder_decoder(config.model))


def _encoded(config: TrainConfig, task: Task, tokenizer: Any, seq2seq: bool) -> Data:
    return Data(task, encode(task, tokenizer, max_length=config.max_length, seq2seq=seq2seq), tokenizer, seq2seq)


def _load_task(config: TrainConfig) -> Task:
    return load_task(
        config.task,
        label=config.label,
        metric=config.metric,
        make_split=config.make_split,
        rename_labels=config.rename_labels,
        ignore_columns=config.ignore_columns,
    )
