"""Sketches for adapters that read data, in tests that are about something else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lopsided.method import InputMoments
from lopsided.tuner import LopsidedLinear
from lopsided.tuner.links import begin_calibrated


@functools.cache
def made_up_inputs(d: int) -> InputMoments:
    """The moments of inputs whose entries differ in size and hang together, the same for every layer of a width."""
    rng = np.random.RandomState(d)
    # The largest entries lie anywhere.
    x = rng.standard_normal((3 * d, d)) * rng.permutation(np.linspace(0.5, 2.0, d)) + rng.standard_normal(d) / 4
    return InputMoments(rows=len(x), squares=np.mean(x**2, axis=0), products=x.T @ x / len(x))


def with_made_up_inputs(add_adapter: Callable[..., None]) -> Callable[..., None]:
    """Wrap `LopsidedLinear.add_adapter`: a new adapter that reads data is calibrated at once."""

    @functools.wraps(add_adapter)
    def add(self: LopsidedLinear, name: str, *args: Any, **kwargs: Any) -> None:
        add_adapter(self, name, *args, **kwargs)
        adapter = self.adapters[name]
        if adapter.uncalibrated and not adapter.awaits and not self.base_weight.tensor.is_meta:
            weight = self.base_weight.for_sketches(self.adapters)
            begin_calibrated(self, name, adapter.draw(0, weight, made_up_inputs(adapter.d_in)))

    return add
