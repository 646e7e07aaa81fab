"""A learning rate from a range test: the rate grows at every step until the loss does, too.

Notation: step t of T has the rate η_t, which grows by one factor per step; θ_0 are the weights at the start and θ_t
those before step t; L_t is the mean loss of that step's own training rows, of which each is read once. The *rise*
d_t = L_t(θ_t) − L_t(θ_0) compares two models on the same rows, so that easy and hard batches cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lopsided.advise.by_name import Batch
from lopsided.advise.trial_model import TrialModel, trial_model
from lopsided.models.mode_contexts import model_mode
from lopsided.runs.batches_of_rows import training_batches
from lopsided.runs.careful_trainer import adamw, max_grad_norm
from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import Inputs

STEPS, LOWEST, HIGHEST = 40, 1e-5, 1.0
# Steps whose rises are averaged, around each.
WINDOW = 5
# The loss is said to grow where its rise is this share of L(θ_0) above the lowest.
GROWTH = 0.1
# The guess, as a share of the rate at which it does: one number for all methods and tasks
# (docs/decisions/0023-first-rates.md).
FACTOR = 0.25


@dataclass(frozen=True, kw_only=True)
class RangeCurve:
    """What a range test saw.

    Args:
        rates: η_t of the steps that were taken.
        rises: d_t before each of them, in the loss's unit.
        start: the mean of L_t(θ_0).
    """

    rates: tuple[float, ...]
    rises: tuple[float, ...]
    start: float

    def smoothed(self) -> np.ndarray:
        """Return the mean rise over neighbouring steps, fewer of them at the ends: (steps,)"""
        rises, reach = np.array(self.rises), WINDOW // 2
        return np.array([rises[max(0, t - reach) : t + reach + 1].mean() for t in range(len(rises))])

    @property
    def growth(self) -> float:
        """The first rate beyond that of the lowest smoothed rise at which the rise is `GROWTH`·L(θ_0) above it.

        The test's last rate, where the loss never grew.
        """
        curve = self.smoothed()
        lowest = int(np.argmin(curve))
        # A rise that is not finite compares as false with every number.
        below = curve[lowest:] < curve[lowest] + GROWTH * self.start
        return self.rates[-1] if below.all() else self.rates[lowest + int(np.argmin(below))]

    @property
    def rate(self) -> float:
        """The guess."""
        return FACTOR * self.growth


def range_curve(
    config: TrainConfig,
    inputs: Inputs,
    *,
    steps: int = STEPS,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
) -> RangeCurve:
    """Train for a few steps at rates that grow from the lowest to the highest, and watch the loss.

    AdamW, batches, gradient clipping and parameter groups are those of a run; a chain stays in its first link. The test
    ends early where the loss has doubled or is not finite. A step costs one forward pass more than a training step.
    Neither validation nor test rows are read; the inputs' model is left as it was.

    Args:
        config: the run; its own rate and length are not used.

    Source:
        Smith 2017, arXiv:1506.01186 (the range test); the comparison with the start on the same rows is ours.
    """
    batches = training_batches(config, inputs, steps * config.accumulate)
    rates = np.geomspace(lowest, highest, steps).tolist()
    with trial_model(config, inputs) as trial, model_mode(trial.model, training=True):
        with torch.no_grad():
            starts = [float(_loss(trial, batch, config)) for batch in batches]
        optimizer = adamw(config, trial.model, 1.0)
        # A method may train some of its factors at a multiple of the rate.
        multiples = [group["lr"] for group in optimizer.param_groups]
        start, rises = float(np.mean(starts)), list[float]()
        for step, rate in enumerate(rates):
            own = slice(step * config.accumulate, (step + 1) * config.accumulate)
            for group, multiple in zip(optimizer.param_groups, multiples, strict=True):
                group["lr"] = rate * multiple
            rises.append(_step(trial, batches[own], config, optimizer) - float(np.mean(starts[own])))
            if not math.isfinite(rises[-1]) or rises[-1] > max(start, 0.1):
                break
    return RangeCurve(rates=tuple(rates[: len(rises)]), rises=tuple(rises), start=start)


def _step(trial: TrialModel, batches: list[Batch], config: TrainConfig, optimizer: torch.optim.Optimizer) -> float:
    """Take one optimizer step, and return the loss before it."""
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches:
        loss = _loss(trial, batch, config) / len(batches)
        loss.backward()
        total += float(loss.detach())
    # As `Trainer` does: a norm of 0 clips nothing.
    if (most := max_grad_norm(config)) > 0:
        torch.nn.utils.clip_grad_norm_(trial.trained, most)
    optimizer.step()
    return total


def _loss(trial: TrialModel, batch: Batch, config: TrainConfig) -> Any:
    with torch.autocast(trial.device.type, torch.bfloat16, enabled=config.bf16):
        return trial.model(**trial.move(batch)).loss
