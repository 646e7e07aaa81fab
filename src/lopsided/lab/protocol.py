"""What an experiment is: a claim, the range in which it would hold, and a function that measures.

The ranges are part of the experiment, written down before anything is measured; the verdict follows from them. A range

    holds         if the figure's whole 95 % interval lies in it
    fails         if the whole interval lies outside
    undecided     if the interval crosses a limit, or there is none: one run has no interval

and a figure that is computed without sampling is judged by its value. The claim is "reproduced" if every range holds,
"partly" if some fail and some hold, "not reproduced" if some fail and none holds, and "undecided" if none fails and
some are undecided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lopsided.errors import LopsidedError

Size = Literal["quick", "full"]
State = Literal["holds", "fails", "undecided"]
Verdict = Literal["reproduced", "partly", "not reproduced", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A figure that the claim makes a statement about, and the range in which the claim holds.

    Args:
        what: the figure, in words and with its unit.
        low, high: the range, both ends included; None for no end.
        paper: the paper's own figure, where it prints one.
        exact: the figure is computed without sampling (a rounding error, a count over all that there is), so that its
            value decides and it needs no interval.

    Raises:
        LopsidedError: without a range, or with one that leaves the paper's own figure out.
    """

    what: str
    low: float | None = None
    high: float | None = None
    paper: float | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise LopsidedError(f"figure {self.what!r} has no range, so it could not fail; give low or high")
        if self.paper is not None and not self.contains(self.paper):
            raise LopsidedError(
                f"figure {self.what!r}: expected a range with the paper's figure in it, got {self.range} without "
                f"{self.paper:g}; widen the range"
            )

    def contains(self, value: float) -> bool:
        """Whether a value lies in the range; NaN does not."""
        above = self.low is None or value >= self.low
        return above and (self.high is None or value <= self.high) and value == value

    def judge(self, measured: Measured) -> Judgement:
        """What a figure says about the range, and why it decides nothing where it does not.

        Example:
            >>> Expected(what="x", low=0.0).judge(Measured(value=1.0, interval=(-0.5, 2.5)))
            Judgement(state='undecided', why='its interval crosses 0')
        """
        if not math.isfinite(measured.value):
            return Judgement(state="undecided", why=measured.why or "it could not be computed")
        if self.exact:
            return Judgement(state="holds" if self.contains(measured.value) else "fails")
        if measured.interval is None:
            return Judgement(state="undecided", why=measured.why or "it has no interval")
        low, high = measured.interval
        if not (math.isfinite(low) and math.isfinite(high)):
            return Judgement(state="undecided", why="its interval could not be computed")
        if self.contains(low) and self.contains(high):
            return Judgement(state="holds")
        if (self.low is not None and high < self.low) or (self.high is not None and low > self.high):
            return Judgement(state="fails")
        crossed = [limit for limit in (self.low, self.high) if limit is not None and low <= limit <= high]
        limits = " and ".join(f"{limit:g}" for limit in crossed)
        return Judgement(state="undecided", why=f"its interval crosses {limits}")

    @property
    def range(self) -> str:
        """The range in words."""
        if self.low is None:
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a range holds, and why not, where that is undecided."""

    state: State
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure, and a 95 % confidence interval where there were several runs.

    Args:
        value: NaN for a figure that could not be computed.
        why: the reason, where there is no value or no interval.
    """

    value: float
    interval: tuple[float, float] | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve or set of points of a plot.

    Args:
        x, y: the points.
        low, high: a band around a curve; NaN where there is none.
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
    pairs = zip(experiment.expected, outcome.measured, strict=True)
    return verdict_of([expected.judge(measured).state for expected, measured in pairs])


def verdict_of(states: Iterable[State]) -> Verdict:
    """The verdict that follows from the states of all ranges.

    Example:
        >>> verdict_of(["holds", "undecided"]), verdict_of(["holds", "fails"]), verdict_of(["undecided", "fails"])
        ('undecided', 'partly', 'not reproduced')
    """
    found = set(states)
    if "fails" in found:
        return "partly" if "holds" in found else "not reproduced"
    return "undecided" if "undecided" in found else "reproduced"
