"""Checks before anything is trained, which report everything that cannot work, for all methods of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel

from lopsided.errors import LopsidedError, first_line
from lopsided.runs.careful_trainer import training_arguments
from lopsided.runs.config import TrainConfig
from lopsided.runs.further_rows import check_further
from lopsided.runs.inputs import Data, Inputs
from lopsided.runs.prepare import problems_of
from lopsided.runs.probe import problems_of_rows


class Unfit(LopsidedError):
    """What a preflight found, one line per problem.

    Args:
        problems: the lines.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def preflight(configs: Sequence[TrainConfig], inputs: Inputs) -> None:
    """Raise for all that keeps these runs from being made: methods that don't fit the model, rows that don't.

    Methods are tried on a copy of the model without weights; rows are tried on the loaded model, a few of them.

    Args:
        configs: the runs, which differ in method alone.
        inputs: their rows, and their model, which is left as it was.

    Raises:
        Unfit: with a line for each problem; a problem of several methods is listed once, with their names.
    """
    methods: dict[str, list[str]] = {}
    for config in configs:
        for problem in _problems_of_method(config, inputs.data, inputs.model):
            methods.setdefault(problem, []).append(config.method)
    several = len(configs) > 1
    problems = [f"{', '.join(names)}: {text}" if several else text for text, names in methods.items()]
    if configs:
        problems += problems_of_rows(inputs, max_length=configs[0].max_length)
        problems += _problem_of_answers(configs[0], inputs.data)
    if problems:
        raise Unfit(problems)


def _problem_of_answers(config: TrainConfig, data: Data) -> Iterator[str]:
    if data.seq2seq and "top1_token" in (data.task.metric.name, *data.task.also):
        yield (
            f"metric top1_token of task {data.task.name} expected a causal model; received an encoder-decoder, whose "
            "first token may be one that begins every text; use greedy_match or exact_match"
        )
    try:
        check_further(config, data)
    except LopsidedError as error:
        yield str(error)


def check_rows(config: TrainConfig, inputs: Inputs) -> None:
    """Raise for rows that the model can't compute: a `preflight` without a method, for what puts on its own adapters.

    Raises:
        Unfit: with a line for each problem.
    """
    problems = problems_of_rows(inputs, max_length=config.max_length)
    if problems:
        raise Unfit(problems)


def total_steps(config: TrainConfig, rows: int) -> int:
    """Return how many optimizer steps a run over that many training rows has."""
    if config.steps is not None:
        return config.steps
    per_epoch = math.ceil(rows / (config.batch_size * config.accumulate))
    return max(1, round((config.epochs or 3.0) * per_epoch))


def _problems_of_method(config: TrainConfig, data: Data, model: PreTrainedModel) -> Iterator[str]:
    method = config.resolve_method()
    steps = total_steps(config, len(data.encoded.splits["train"]))
    try:
        if method.chain is not None:
            method.chain.boundaries(steps)
    except LopsidedError as error:
        yield str(error)
    try:
        training_arguments(config, steps)
    # Of transformers: bf16 on a device without it, a tracker that is not installed.
    except (ValueError, ImportError) as error:
        yield f"the settings do not fit this machine: {first_line(error)}; leave the option out"
    try:
        yield from problems_of(model, method, data.task, config, steps)
    except LopsidedError as error:
        yield str(error)
