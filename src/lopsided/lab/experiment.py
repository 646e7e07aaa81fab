"""What an experiment is: a claim, the range in which it would hold, and a function that measures.

The ranges are part of the experiment, written down before anything is measured; the verdict follows from them:
"reproduced" if every figure lies in its range, "not reproduced" if none does, "partly" otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import t as student

from lopsided.errors import LopsidedError

Size = Literal["quick", "full"]
Verdict = Literal["reproduced", "partly", "not reproduced"]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A figure that the claim makes a statement about, and the range in which the claim holds.

    Args:
        what: the figure, in words and with its unit.
        low, high: the range, both ends included; None for no end.
        paper: the paper's own figure, where it prints one.
    """

    what: str
    low: float | None = None
    high: float | None = None
    paper: float | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise LopsidedError(f"figure {self.what!r} has no range, so it could not fail; give low or high")

    def holds(self, value: float) -> bool:
        """Whether a value lies in the range; NaN does not."""
        above = self.low is None or value >= self.low
        return above and (self.high is None or value <= self.high) and value == value

    @property
    def range(self) -> str:
        """The range in words."""
        if self.low is None:
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure, and a 95 % confidence interval where there were several runs."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve or set of points of a plot.

    Args:
        x, y: the points.
        low, high: a band around a curve.
        style: "line", "points", or "bars", whose x are names.
    """

    name: str
    x: list[Any]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    style: Literal["line", "points", "bars", "dashed"] = "line"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture of an experiment, as data.

    Args:
        name: of its file.
        title: what it shows, in one sentence.
        log: the axes with a logarithmic scale: "", "x", "y" or "xy".
    """

    name: str
    title: str
    x: str
    y: str
    lines: list[Line]
    log: Literal["", "x", "y", "xy"] = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an experiment measured.

    Args:
        measured: a figure for each `Expected`, in their order.
        settings: everything that the figures depend on, beside the seeds.
        details: further figures, for a table or a reader of result.json.
        plots: at least one.
    """

    measured: list[Measured]
    settings: Mapping[str, Any]
    plots: list[Plot]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked of an experiment.

    Args:
        size: "quick" for a look, "full" for the record.
        seeds: how many; None takes the experiment's own number for the size.
        data: a folder of data, for an experiment that can use one.
        note: tells a person how far the work is.
    """

    size: Size = "quick"
    seeds: int | None = None
    data: Path | None = None
    note: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise LopsidedError(f"expected at least one seed, got {self.seeds}; raise --seeds")

    def pick(self, *, quick: Any, full: Any) -> Any:
        """One of two settings, by the size."""
        return quick if self.size == "quick" else full

    def number_of_seeds(self, *, quick: int, full: int) -> int:
        return self.seeds if self.seeds is not None else self.pick(quick=quick, full=full)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One claim of a paper, put to the test on this machine.

    Args:
        name: what users call it.
        claim: what the paper says, in one sentence.
        meaning: two sentences for someone who has a run to plan.
        source: paper, and where in it.
        expected: the figures and their ranges.
        run: measures them.
        takes_data: whether `Request.data` means something to it.
    """

    name: str
    claim: str
    meaning: str
    source: str
    expected: tuple[Expected, ...]
    run: Callable[[Request], Outcome]
    takes_data: bool = False


def verdict(experiment: Experiment, outcome: Outcome) -> Verdict:
    """What the figures say about the claim."""
    held = [
        expected.holds(measured.value) for expected, measured in zip(experiment.expected, outcome.measured, strict=True)
    ]
    return "reproduced" if all(held) else "partly" if any(held) else "not reproduced"


def over_seeds(values: Any) -> Measured:
    """The mean of independent runs, with Student's 95 % interval where there are two or more.

    Shapes:
        values: (runs,)
    """
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    if len(found) < 2:
        return Measured(value=mean)
    reach = float(student.ppf(0.975, len(found) - 1)) * float(found.std(ddof=1)) / len(found) ** 0.5
    return Measured(value=mean, interval=(mean - reach, mean + reach))


def slope(x: Any, y: Any) -> Measured:
    """The least-squares slope of ln y over ln x, with Student's 95 % interval: the exponent of a power law.

    Shapes:
        x: (points,), y: (points,) or (runs, points), all positive; with runs, the mean and interval of their slopes.
    """
    logs, values = np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64))
    centred = logs - logs.mean()
    if values.ndim == 2:
        return over_seeds(values @ centred / (centred @ centred))
    found = float(values @ centred / (centred @ centred))
    if len(logs) < 3:
        return Measured(value=found)
    residuals = values - values.mean() - found * centred
    error = float((residuals @ residuals / (len(logs) - 2) / (centred @ centred)) ** 0.5)
    reach = float(student.ppf(0.975, len(logs) - 2)) * error
    return Measured(value=found, interval=(found - reach, found + reach))
