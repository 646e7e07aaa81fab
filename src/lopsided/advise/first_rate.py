"""A first learning rate for a method on a task, without trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lopsided.advise.curvature_rate import StartCurvature, start_curvature
from lopsided.advise.range_test import RangeCurve, range_curve
from lopsided.errors import LopsidedError, unknown
from lopsided.method import METHODS
from lopsided.models.heads import task_heads
from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import Inputs, load_inputs
from lopsided.runs.preflight import preflight

Evidence = RangeCurve | StartCurvature
# How a rate can be guessed.
WAYS: dict[str, Callable[[TrainConfig, Inputs], Evidence]] = {"range": range_curve, "curvature": start_curvature}
# The one that does not depend on the seed (docs/decisions/0023-first-rates.md).
DEFAULT_WAY = "curvature"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A guessed learning rate.

    Args:
        method: whose.
        value: the rate, to three digits.
        how: a key of `WAYS`.
        evidence: what it was guessed from.
    """

    method: str
    value: float
    how: str
    evidence: Evidence


def first_rate(config: TrainConfig, inputs: Inputs, *, how: str = DEFAULT_WAY) -> Rate:
    """Guess a learning rate for a run from a few batches of its training rows.

    Equal configurations give equal rates. The inputs' model and the random state are left as they were, to the bit;
    neither validation nor test rows are read. How it compares with tuned rates is in docs/lab.md, rate-guess: it is
    where a search may begin, and no replacement for one.

    Args:
        config: the run; its own rate and length are not used.
        inputs: its rows and model, as from `load_inputs(config)`.
        how: "range" (`range_curve`) or "curvature" (`start_curvature`).

    Raises:
        LopsidedError: for an unknown way, a method that does not fit the model, or a task without training rows.
    """
    if how not in WAYS:
        raise LopsidedError(unknown("way to guess a rate", how, WAYS))
    evidence = WAYS[how](config, inputs)
    return Rate(method=config.method, value=float(f"{evidence.rate:.3g}"), how=how, evidence=evidence)


def first_rates(
    config: TrainConfig,
    methods: Sequence[str] | None = None,
    *,
    how: str = DEFAULT_WAY,
    inputs: Inputs | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Rate]:
    """Guess a learning rate for each of several methods: see `first_rate`.

    Args:
        config: the runs, which differ in method alone.
        methods: names; None takes all of `METHODS` that the task has something to train for.
        inputs: their rows and model, if the caller has them already.
        note: tells a person how far the work is.

    Raises:
        LopsidedError: for bad input, before any rate is guessed.
    """
    names = list(METHODS) if methods is None else list(dict.fromkeys(methods))
    configs = [dataclasses.replace(config, method=name) for name in names]
    inputs = load_inputs(config) if inputs is None else inputs
    if methods is None and not task_heads(inputs.model):
        configs = [each for each in configs if not each.resolve_method().side.head_alone]
    preflight(configs, inputs)
    rates = []
    for number, each in enumerate(configs, start=1):
        note(f"method {number} of {len(configs)}: {each.method}")
        rates.append(first_rate(each, inputs, how=how))
    return rates
