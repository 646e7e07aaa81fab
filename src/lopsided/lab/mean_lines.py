"""Lines of plots from runs over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from lopsided.lab.intervals import over_seeds
from lopsided.lab.protocol import Line, Measured


def mean_line(
    name: str,
    x: list[Any],
    runs: np.ndarray,
    style: Literal["line", "bars", "dashed"] = "line",
    least: float = -np.inf,
) -> Line:
    """The mean over seeds at each x, with its 95 % interval; one seed has none.

    Args:
        least: where the band ends below, for a logarithmic axis.

    Shapes:
        runs: (seeds, points)
    """
    means = [over_seeds(each) for each in runs.T]
    low, high = ends_of(means)
    return Line(
        name=name,
        x=list(x),
        y=[mean.value for mean in means],
        low=None if low is None else np.maximum(low, least).tolist(),
        high=high,
        style=style,
    )


def ends_of(figures: Sequence[Measured]) -> tuple[list[float] | None, list[float] | None]:
    """The ends of the figures' intervals, NaN where one has none; None if none of them has."""
    ends = [figure.interval or (np.nan, np.nan) for figure in figures]
    if all(figure.interval is None for figure in figures):
        return None, None
    return [low for low, _ in ends], [high for _, high in ends]
