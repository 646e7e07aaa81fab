"""What a run will need, before it is made: memory, from its sizes and two forward passes; time, from a few steps."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from lopsided.models.skeleton import skeleton
from lopsided.runs.calibration import calibrated
from lopsided.runs.careful_trainer import CarefulTrainer
from lopsided.runs.config import TrainConfig
from lopsided.runs.evaluated_rows import evaluated_rows, validation_rows
from lopsided.runs.further_rows import further_of, further_rows
from lopsided.runs.inputs import Data, Inputs
from lopsided.runs.measure import StepTimer, kept_bytes
from lopsided.runs.memory import memory_free
from lopsided.runs.preflight import total_steps
from lopsided.runs.prepare import prepare
from lopsided.runs.session import trainer_for

# A trained number's gradient, and the two moments of AdamW, each as large as the number itself.
COPIES = 3
# What a probe looks at: enough for a mean, few enough for a plan to be quick.
STEPS, EVALUATED_BATCHES, PROMPTS = 3, 2, 4
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class MemoryNeeded:
    """Bytes that a run's training takes at least, where its model lies; buffers within a single layer come on top.

    Args:
        weights: of the model with the method on it.
        trained: gradients, and the optimizer's state.
        step: what autograd keeps between forward and backward, of a full batch of rows as long as the longest.
    """

    weights: int
    trained: int
    step: int

    @property
    def total(self) -> int:
        """All of it at once, as in the middle of a step."""
        return self.weights + self.trained + self.step


def bytes_of_weights(config: TrainConfig, data: Data) -> int:
    """Return the bytes of a run's model in float32, from its configuration: its weights are not loaded.

    Raises:
        LopsidedError: if the configuration cannot be loaded.
    """
    plain = skeleton(config.model, data.task.kind, labels=len(data.task.labels) or 1)
    numbers: int = sum(parameter.numel() for parameter in plain.parameters())
    return 4 * numbers


def memory_needed(config: TrainConfig, inputs: Inputs) -> MemoryNeeded:
    """Return what a run's training takes.

    A batch keeps a + n·b bytes for n rows of one length, so that forward passes of one row and of two tell what a
    full batch keeps, where that may be too large to be tried. A layer that computes in another way for many rows than
    for few makes a difference of some percent.

    Args:
        config: the run.
        inputs: what it begins with; its model is changed.
    """
    with _trainer(config, inputs) as trainer:
        kept = [_kept_by(trainer, inputs.data, rows) for rows in (1, 2)]
        parameters = list(trainer.model.parameters())
    return MemoryNeeded(
        weights=sum(parameter.nbytes for parameter in parameters),
        trained=COPIES * sum(parameter.nbytes for parameter in parameters if parameter.requires_grad),
        step=kept[0] + (config.batch_size - 1) * (kept[1] - kept[0]),
    )


def lack_of_memory(config: TrainConfig, data: Data, load: Callable[[TrainConfig], Inputs]) -> str | None:
    """Return why a run does not fit into the memory that is free now, in one line; None if it does.

    Args:
        config: the run.
        data: its rows.
        load: loads what it begins with, as `ModelCache.inputs` does; not called if the weights alone are too large.
    """
    free, weights = memory_free().for_training, bytes_of_weights(config, data)
    if weights > free:
        return _too_little(config, free, weights, f"the weights of {config.model} alone; take a smaller model")
    needed = memory_needed(config, load(config))
    if needed.total > free:
        parts = f"{needed.step / GIB:.1f} of it for a step of {config.batch_size} rows"
        return _too_little(config, free, needed.total, f"{parts}; lower batch_size and raise accumulate")
    return None


def _too_little(config: TrainConfig, free: int, needed: int, why: str) -> str:
    return f"too little memory for {config.method}: {needed / GIB:.1f} GiB needed, {free / GIB:.1f} GiB free: {why}"


@dataclass(frozen=True, kw_only=True)
class TimeProbe:
    """Seconds that a run's parts take on this machine.

    Args:
        step: of one optimizer step.
        row: of one evaluated row.
        answer: of one answer that is written, or chosen among options; 0 for a task whose scores read none.
    """

    step: float
    row: float
    answer: float

    def seconds(self, config: TrainConfig, data: Data) -> float:
        """Return how long a run takes, without loading: steps, evaluations on the way, and the ones at the end."""
        evaluated = evaluated_rows(config, data)
        steps = total_steps(config, len(data.encoded.splits["train"]))
        rows = min(config.evaluations, steps) * len(validation_rows(config, data))
        rows += sum(len(rows.texts) for rows in evaluated.values())
        answers = sum(len(rows.texts) for split, rows in evaluated.items() if further_of(data, split))
        return steps * self.step + rows * self.row + answers * self.answer


def time_probe(config: TrainConfig, inputs: Inputs) -> TimeProbe:
    """Take a few real steps, and evaluate and answer a few rows.

    Args:
        config: the run.
        inputs: what it begins with; its model is changed.
    """
    with _trainer(config, inputs) as trainer:
        step = _seconds_per_step(trainer)
        row = _seconds_per_row(trainer)
        answer = _seconds_per_answer(trainer, config, inputs.data)
    return TimeProbe(step=step, row=row, answer=answer)


@contextmanager
def _trainer(config: TrainConfig, inputs: Inputs) -> Iterator[CarefulTrainer]:
    """Give the trainer that the run would have, without the run's folder."""
    with tempfile.TemporaryDirectory(prefix="lopsided-probe-") as folder, torch.random.fork_rng():
        elsewhere = dataclasses.replace(config, out=Path(folder), report_to="none")
        # The first link of a chain, of which there is no second one here.
        method = dataclasses.replace(config.resolve_method(), chain=None)
        steps = total_steps(config, len(inputs.data.encoded.splits["train"]))
        model = prepare(inputs.model, method, inputs.data.task, config, steps)
        trainer = trainer_for(elsewhere, inputs.data, model, steps, ())
        calibrated(model, config, inputs.data)
        yield trainer


def _kept_by(trainer: CarefulTrainer, data: Data, rows: int) -> int:
    split = data.encoded.splits["train"]
    lengths = [len(ids) for ids in split["input_ids"]] if "input_ids" in split.column_names else [0]
    batch = data.collator()([split[max(range(len(lengths)), key=lengths.__getitem__)]] * rows)
    with trainer.accelerator.autocast():
        return kept_bytes(trainer.model, trainer._prepare_inputs(batch))


def _seconds_per_step(trainer: CarefulTrainer) -> float:
    """Return the mean time of a step after the first one, which allocates; batches differ in length, so no median."""
    timer, arguments = StepTimer(), trainer.args
    trainer.add_callback(timer)
    arguments.max_steps, arguments.load_best_model_at_end = STEPS + 1, False
    arguments.eval_strategy, arguments.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
    trainer.train()
    return sum(timer.seconds[1:]) / STEPS


def _seconds_per_row(trainer: CarefulTrainer) -> float:
    """Return the mean time of an evaluated row, of batches in the middle: they come shortest first."""
    loader = trainer.get_eval_dataloader()
    middle = max(0, len(loader) // 2 - EVALUATED_BATCHES // 2)
    batches = list(islice(loader, middle, middle + EVALUATED_BATCHES))
    rows = sum(len(next(iter(batch.values()))) for batch in batches)
    trainer.model.eval()
    return _timed(lambda: [trainer.prediction_step(trainer.model, batch, False) for batch in batches]) / rows


def _seconds_per_answer(trainer: CarefulTrainer, config: TrainConfig, data: Data) -> float:
    """Return the mean time of an answer, in a batch that is smaller than a run's, which overestimates the time."""
    if not further_of(data, "test"):
        return 0.0
    texts = data.task.splits["test"]
    texts = texts.select(range(min(PROMPTS, len(texts))))
    return _timed(lambda: further_rows(trainer, config, data, "test", texts)) / len(texts)


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
