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
from typing import Any, Literal, TypeVar

from lopsided.errors import LopsidedError
from lopsided.plotting.svg import Drawing

Size = Literal["quick", "full"]
State = Literal["holds", "fails", "undecided"]
Verdict = Literal["reproduced", "partly", "not reproduced", "undecided"]

Setting = TypeVar("Setting")
# The place of an experiment that gives none: after all others.
LAST = 1000


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
        """Return whether a value lies in the range; NaN does not."""
        above = self.low is None or value >= self.low
        return above and (self.high is None or value <= self.high) and value == value

    def judge(self, measured: Measured) -> Judgement:
        """Return what a figure says about the range, and why it decides nothing where it does not.

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
        return self._judge_interval(*measured.interval)

    def _judge_interval(self, low: float, high: float) -> Judgement:
        if not (math.isfinite(low) and math.isfinite(high)):
            return Judgement(state="undecided", why="its interval could not be computed")
        if self.contains(low) and self.contains(high):
            return Judgement(state="holds")
        if (self.low is not None and high < self.low) or (self.high is not None and low > self.high):
            return Judgement(state="fails")
        limits = [limit for limit in (self.low, self.high) if limit is not None and low <= limit <= high]
        words = " and ".join(f"{limit:g}" for limit in limits)
        return Judgement(state="undecided", why=f"its interval crosses {words}")

    @property
    def range(self) -> str:
        """The range in words."""
        if self.low is None:
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if self.high is None else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a range holds, and the reason where that is undecided."""

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
class Outcome:
    """What an experiment measured.

    Args:
        measured: one figure per `Expected`, in their order.
        settings: everything that the figures depend on, apart from the seeds.
        details: further figures, for a table or a reader of result.json.
        plots: at least one.
    """

    measured: list[Measured]
    settings: Mapping[str, Any]
    plots: list[Drawing]
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """How an experiment is to be run.

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

    def pick(self, *, quick: Setting, full: Setting) -> Setting:
        """Return one of two settings, by the size."""
        return quick if self.size == "quick" else full

    def number_of_seeds(self, *, quick: int, full: int) -> int:
        """Return how many seeds to run: the requested number, or the experiment's own for the size."""
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
        place: where it stands in the list and in `lopsided lab all`; the lowest comes first, and experiments of one
            place follow each other by name.
    """

    name: str
    claim: str
    meaning: str
    source: str
    expected: tuple[Expected, ...]
    run: Callable[[Request], Outcome]
    takes_data: bool = False
    place: int = LAST


def verdict(experiment: Experiment, outcome: Outcome) -> Verdict:
    """Return what the figures say about the claim."""
    pairs = zip(experiment.expected, outcome.measured, strict=True)
    return verdict_of([expected.judge(measured).state for expected, measured in pairs])


def verdict_of(states: Iterable[State]) -> Verdict:
    """Return the verdict that follows from the states of all ranges.

    Example:
        >>> verdict_of(["holds", "undecided"]), verdict_of(["holds", "fails"]), verdict_of(["undecided", "fails"])
        ('undecided', 'partly', 'not reproduced')
    """
    different = set(states)
    if "fails" in different:
        return "partly" if "holds" in different else "not reproduced"
    return "undecided" if "undecided" in different else "reproduced"
