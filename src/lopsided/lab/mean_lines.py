"""Traces of drawings from figures over seeds: mean lines with their bands, and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lopsided.lab.intervals import over_seeds
from lopsided.lab.protocol import Measured
from lopsided.plotting.svg import Trace


def mean_line(
    name: str,
    x: list[Any],
    runs: np.ndarray,
    style: Literal["line", "bars", "dashed"] = "line",
    least: float = -np.inf,
) -> Trace:
    """Return the mean over seeds at each x, with its 95 % interval; one seed has none.

    Args:
        least: where the band ends below, for a logarithmic axis.

    Shapes:
        runs: (seeds, points)
    """
    means = [over_seeds(point) for point in runs.T]
    low, high = ends_of(means)
    return Trace(
        name=name,
        x=list(x),
        y=[mean.value for mean in means],
        low=None if low is None else np.maximum(low, least).tolist(),
        high=high,
        style=style,
    )


def quantile_line(name: str, runs: np.ndarray, *, least: float, style: Literal["line", "dashed"] = "line") -> Trace:
    """Return the median over runs at each step from 0, with a band from 10 to 90 % of them.

    Args:
        least: smaller values are drawn as this one: on a logarithmic axis the last bits of a float are noise.

    Shapes:
        runs: (steps + 1, runs)
    """
    low, middle, high = (np.maximum(np.quantile(runs, q, axis=1), least).tolist() for q in (0.1, 0.5, 0.9))
    return Trace(name=name, x=list(range(len(runs))), y=middle, low=low, high=high, style=style)


def bars(name: str, figures: Mapping[str, Measured]) -> Trace:
    """Return bars of named figures, with their intervals where they have some."""
    low, high = ends_of(list(figures.values()))
    return Trace(
        name=name, x=list(figures), y=[figure.value for figure in figures.values()], low=low, high=high, style="bars"
    )


def ends_of(figures: Sequence[Measured]) -> tuple[list[float] | None, list[float] | None]:
    """Return the ends of the figures' intervals, NaN where one has none; None if none of them has."""
    ends = [figure.interval or (np.nan, np.nan) for figure in figures]
    if all(figure.interval is None for figure in figures):
        return None, None
    return [low for low, _ in ends], [high for _, high in ends]
