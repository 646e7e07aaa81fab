"""Lines of plots from runs over seeds."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from lopsided.lab.experiment import Line
from lopsided.lab.intervals import over_seeds


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
    ends = [mean.interval or (np.nan, np.nan) for mean in means]
    return Line(
        name=name,
        x=list(x),
        y=[mean.value for mean in means],
        low=[float(np.maximum(low, least)) for low, _ in ends],
        high=[high for _, high in ends],
        style=style,
    )
