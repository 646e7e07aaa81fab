"""A first learning rate for a method on a task, without trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lopsided.advise.curvature_rate import StartCurvature, start_curvature
from lopsided.advise.range_test import RangeCurve, range_curve
from lopsided.errors import LopsidedError, unknown
from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import Inputs

Evidence = RangeCurve | StartCurvature
# How a rate can be guessed.
WAYS: dict[str, Callable[[TrainConfig, Inputs], Evidence]] = {"range": range_curve, "curvature": start_curvature}
# The better one of the two on real tasks (docs/lab.md, rate-guess).
DEFAULT_WAY = "range"


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
    neither validation nor test rows are read. How it compares with tuned rates is in docs/lab.md, rate-guess: it is where
    a search may begin, and no replacement for one.

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
