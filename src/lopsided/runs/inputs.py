"""What a run begins with: its rows as tokens, its model before any method is put on it, and the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lopsided.models.load import load_model
from lopsided.runs.config import TrainConfig
from lopsided.tasks import EncodedTask, Task, encode, load_task


@dataclass(frozen=True)
class Data:
    """A task and its rows as tokens, which runs on the same model can share."""

    task: Task
    encoded: EncodedTask

    @property
    def described(self) -> str:
        """How the rows are read and learned, in one line; "" where there is nothing of a user's to tell."""
        return "; ".join(filter(None, [self.task.described, self.encoded.how]))


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
        ignore_columns=config.ignore_columns,
    )
    model, tokenizer = load_model(config.model, task, seed=config.seed)
    seq2seq = bool(model.config.is_encoder_decoder)
    return Data(task, encode(task, tokenizer, max_length=config.max_length, seq2seq=seq2seq)), model, tokenizer
