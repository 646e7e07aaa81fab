"""One figure of a result.json: what was measured, its range in words, and whether the range holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lopsided.files.strict_json import WHY
from lopsided.finite import finite_or_none
from lopsided.formatting import MISSING
from lopsided.lab.protocol import Expected, Measured, State

# The words for one range, and for several.
WORDS: tuple[tuple[State, str, str], ...] = (
    ("holds", "holds", "hold"),
    ("fails", "fails", "fail"),
    ("undecided", "undecided", "undecided"),
)


@dataclass(frozen=True, kw_only=True)
class RecordedFigure:
    """A figure and the range that it was judged by.

    Args:
        what: the figure, in words and with its unit.
        value: None where it could not be computed.
        interval: of 95 %; an end is None where it could not be computed.
        tolerance: the range in words.
        paper: the paper's own figure, where it prints one.
        exact: it was computed without sampling, and is judged by its value.
        state: whether the range holds.
        why: the reason where that is undecided.
    """

    what: str
    value: float | None
    interval: tuple[float | None, float | None] | None
    tolerance: str
    paper: float | None
    exact: bool
    state: State
    why: str = ""

    @classmethod
    def judge(cls, expected: Expected, measured: Measured) -> RecordedFigure:
        """Return a figure with what it says about its range."""
        judgement = expected.judge(measured)
        return cls(
            what=expected.what,
            value=finite_or_none(measured.value),
            interval=measured.interval,
            tolerance=expected.range,
            paper=expected.paper,
            exact=expected.exact,
            state=judgement.state,
            why=judgement.why,
        )

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> RecordedFigure:
        """Return the figure that an entry of result.json describes."""
        interval = entry["interval"]
        return cls(
            what=entry["what"],
            value=entry["value"],
            interval=None if interval is None else (interval[0], interval[1]),
            tolerance=entry["tolerance"],
            paper=entry["paper"],
            exact=entry["exact"],
            state=entry["state"],
            why=entry.get(WHY, {}).get("state", ""),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry of result.json."""
        return {
            "what": self.what,
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "tolerance": self.tolerance,
            "paper": self.paper,
            "exact": self.exact,
            **judgement_to_json(self.state, self.why),
        }

    @property
    def measured_text(self) -> str:
        """The value with its interval, or a dash."""
        if self.value is None:
            return MISSING
        ends = [MISSING if end is None else f"{end:.3g}" for end in self.interval or ()]
        interval = f" [{', '.join(ends)}]" if ends else ""
        return f"{self.value:.4g}{interval}{', exact' if self.exact else ''}"

    @property
    def paper_text(self) -> str:
        """The paper's own figure, or nothing."""
        return "" if self.paper is None else f"{self.paper:.4g}"

    @property
    def state_text(self) -> str:
        """Whether the range holds, and why that is undecided."""
        return f"{self.state}: {self.why}" if self.why else self.state


def judgement_to_json(state: State, why: str) -> dict[str, Any]:
    """Return the keys of an entry that say whether its range holds; programs of version 0.1.0 read `holds` alone."""
    holds = {"holds": True, "fails": False, "undecided": None}[state]
    return {"holds": holds, "state": state, **({WHY: {"state": why}} if why else {})}


def count_states(states: Iterable[State]) -> str:
    """Return how many ranges hold, fail and are undecided, in words.

    Example:
        >>> count_states(["holds", "undecided"])
        '1 holds, 1 undecided'
    """
    listed = list(states)
    return ", ".join(f"{n} {one if n == 1 else many}" for state, one, many in WORDS if (n := listed.count(state)))
