"""What scores read besides the numbers of one pass over a split: answers that a model writes, options that it chooses.

Each takes a pass or many more, so it is made after training, once, and only for the splits and scores that ask for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from lopsided.errors import LopsidedError
from lopsided.runs.careful_trainer import CarefulTrainer
from lopsided.runs.config import TrainConfig
from lopsided.runs.facts import Predictions
from lopsided.runs.generate import answered, writing_of
from lopsided.runs.inputs import Data
from lopsided.tasks import SPLITS, EncodedTask, Task, get_metric
from lopsided.tasks.encoders import Wanted
from lopsided.tasks.kinds import KINDS

# More than this are no options of one question, but texts that happen to come back.
MOST_OPTIONS = 32


@dataclass(frozen=True, kw_only=True)
class Further:
    """An entry of `FURTHER`.

    Args:
        make: makes the arrays from a trainer, the run's configuration and data, a split, and its rows that count.
        check: raises for a run for which the arrays cannot be made.
    """

    make: Callable[[CarefulTrainer, TrainConfig, Data, str, Dataset], Predictions]
    check: Callable[[TrainConfig, Data], object]


def further_of(data: Data, split: str) -> tuple[str, ...]:
    """Return the keys of `FURTHER` that a split's scores read.

    The score that counts has them on validation, test and other domains; those next to it not on validation. Training
    rows have none.
    """
    task = data.task
    tested = split == "test" or split in task.out_of_domain
    names = [task.metric.name] if tested or split == SPLITS[1] else []
    names += task.also if tested else ()
    needed = {array for name in names for array in get_metric(name).entry.further}
    return tuple(name for name in FURTHER if name in needed)


def further_rows(trainer: CarefulTrainer, config: TrainConfig, data: Data, split: str, rows: Dataset) -> Predictions:
    """Return what the scores of a split read besides the numbers of its one pass.

    Args:
        trainer: has the finished model.
        config: of the run.
        data: that it learned.
        split: its name.
        rows: those of it that count, as the task has them.
    """
    arrays: dict[str, np.ndarray] = {}
    for name in further_of(data, split):
        arrays |= FURTHER[name].make(trainer, config, data, split, rows)
    return arrays


def check_further(config: TrainConfig, data: Data) -> None:
    """Raise for scores that cannot be computed from the finished model's answers.

    Raises:
        LopsidedError: for answers without room for a prompt, completions that are no options, or a model that cannot
            choose.
    """
    for name in further_of(data, "test"):
        FURTHER[name].check(config, data)


def _write(trainer: CarefulTrainer, config: TrainConfig, data: Data, split: str, rows: Dataset) -> Predictions:
    def show(batches: Sequence[Any]) -> None:
        # As the Trainer's own loop calls it, so that every progress bar moves.
        trainer.callback_handler.eval_dataloader = batches
        trainer.control = trainer.callback_handler.on_prediction_step(trainer.args, trainer.state, trainer.control)

    written = answered(
        rows,
        trainer.model,
        data.processor,
        writing_of(config, data),
        autocast=trainer.accelerator.autocast,
        on_batch=show,
    )
    trainer.control = trainer.callback_handler.on_predict(trainer.args, trainer.state, trainer.control, {})
    return written


def _choose(trainer: CarefulTrainer, config: TrainConfig, data: Data, split: str, rows: Dataset) -> Predictions:
    """Ask the same prompts with the split's completions as options, of which the likeliest is chosen."""
    options = _options(data, split)
    right = [options.index(text) for text in rows["completion"]]
    asked = Dataset.from_dict({"prompt": rows["prompt"], "options": [options] * len(rows), "label": right})
    name = data.task.name
    task = Task(name=name, kind="choice", splits=dict.fromkeys(SPLITS, asked), labels=(), metric=get_metric("accuracy"))
    encoded = _encoding(config, data).rows(asked, data.processor, config.max_length, f"task {name}: {split}")
    choice = dataclasses.replace(data, task=task, encoded=EncodedTask(splits={split: encoded}, out_of_domain={}))
    with trainer.asked(choice):
        numbers = trainer.predict(encoded).predictions
    answers = KINDS["choice"].rows(numbers)
    return {"chosen": answers["prediction"], "right_option": answers["label"]}


def _encoding(config: TrainConfig, data: Data) -> Any:
    return KINDS["choice"].encoding(
        Wanted(
            task=data.task.name,
            form="options",
            processor=data.processor,
            seq2seq=data.seq2seq,
            max_length=config.max_length,
        )
    )


def _options(data: Data, split: str) -> list[str]:
    """Return the distinct completions of the whole split: the options of every row's prompt."""
    options = sorted(set({**data.task.splits, **data.task.out_of_domain}[split]["completion"]))
    if not 2 <= len(options) <= MOST_OPTIONS:
        raise LopsidedError(
            f"option_accuracy chooses among a split's distinct completions: task {data.task.name} expected 2 to "
            f"{MOST_OPTIONS} in {split}; received {len(options)}; use exact_match or greedy_match"
        )
    return options


def _check_options(config: TrainConfig, data: Data) -> None:
    for split in ("test", *data.task.out_of_domain):
        _options(data, split)
    _encoding(config, data)


# By the first of the arrays that an entry makes: what a score reads decides what is made.
FURTHER: dict[str, Further] = {
    "answer": Further(make=_write, check=writing_of),
    "chosen": Further(make=_choose, check=_check_options),
}
