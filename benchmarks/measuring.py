"""What the benchmarks share: their settings and command line, turns, medians of pairwise ratios, and results.

Notation: a *variant* is one way to fine-tune the model; a *round* measures each variant once, in a new order. The
ratio of two variants is taken within each round, so what slows a whole round down (another process, the
processor's clock) cancels; its median over the rounds is reported.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from lopsided import LopsidedError, stats
from lopsided.files.atomic import write_json
from lopsided.runs.measure import machine, versions
from lopsided.study.turns import take_turns

RESULTS = Path(__file__).parents[1] / "docs" / "performance"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The model, the batch and the number of measurements.

    Args:
        layers, hidden: of the encoder; heads are 64 wide, the feed-forward part is four times as wide.
        batch, length: rows and tokens per row.
        r: rank of every adapter.
        dropout: the model's own. 0 by default: the masks would be in every figure, the limit's as well, and bring
            all ratios nearer to 1.
        rounds, warmup: measurements of each variant, and those before them that are thrown away.
        threads: torch's.
        seed: of the weights, the batch and the order of the turns.
    """

    layers: int = 4
    hidden: int = 768
    batch: int = 16
    length: int = 64
    r: int = 16
    dropout: float = 0.0
    rounds: int = 30
    warmup: int = 4
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "batch", "length", "r", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise LopsidedError(f"{name} must be at least 1, got {getattr(self, name)}; raise --{name}")
        if self.warmup < 0 or not 0.0 <= self.dropout < 1.0:
            raise LopsidedError(
                f"expected warmup >= 0 and 0 <= dropout < 1, got warmup={self.warmup}, dropout={self.dropout}; "
                "correct the option"
            )


QUICK = {"layers": 1, "hidden": 32, "batch": 2, "length": 8, "r": 2, "rounds": 2, "warmup": 1, "threads": 1}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A script: what it measures and how its result is written.

    Args:
        name: of its JSON file.
        measure: (setting, requested variants or None) -> what the result holds next to settings and machine.
        table: the whole result as markdown.
        default: the setting when no option is given.
    """

    name: str
    measure: Callable[[Setting, Sequence[str] | None], dict[str, Any]]
    table: Callable[[Mapping[str, Any]], str]
    default: Setting

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Measure, write `<out>/<name>.json` and print the table; returns the exit status."""
        try:
            options, setting = self._parse(arguments)
            only = options.only.split(",") if options.only else None
            result = self.result(setting, only)
        except LopsidedError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 2
        write_json(options.out / f"{self.name}.json", result)
        print(self.table(result))
        return 0

    def result(self, setting: Setting, only: Sequence[str] | None = None) -> dict[str, Any]:
        """The figures, with all that is needed to read them elsewhere."""
        return stamped(self.name, setting, lambda: self.measure(setting, only))

    def _parse(self, arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Setting]:
        parser = argparse.ArgumentParser(description=f"Writes {self.name}.json and prints its table.")
        parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
        parser.add_argument("--only", help="variants, separated by commas; references are always measured")
        parser.add_argument("--quick", action="store_true", help="a tiny model and two rounds: says nothing about time")
        for field in dataclasses.fields(Setting):
            default = getattr(self.default, field.name)
            parser.add_argument(f"--{field.name}", type=type(default), help=f"default {default}")
        options = parser.parse_args(arguments)
        given = {f.name: getattr(options, f.name) for f in dataclasses.fields(Setting)}
        changes = {name: value for name, value in given.items() if value is not None}
        return options, dataclasses.replace(self.default, **({**QUICK, **changes} if options.quick else changes))


def stamped(name: str, setting: Any, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure with `setting.threads` threads, and return the figures with all that is needed to read them elsewhere."""
    torch.set_num_threads(setting.threads)
    before = os.getloadavg()[0]
    measured = measure()
    return {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "load_average": [before, os.getloadavg()[0]],
        "versions": versions(),
        "setting": dataclasses.asdict(setting),
        **measured,
    }


# -- measuring -----------------------------------------------------------------------------------------------


class Rounds(Protocol):
    """How often a benchmark measures, and the seed of its order."""

    @property
    def rounds(self) -> int:
        """Measurements of each piece of work."""

    @property
    def warmup(self) -> int:
        """Measurements before them, which are thrown away."""

    @property
    def seed(self) -> int:
        """Of the order of the turns."""


def turns(work: Mapping[str, Callable[[], float]], setting: Rounds, title: str) -> dict[str, list[float]]:
    """Measure each piece of work once per round, in an order that is shuffled again for each round.

    Args:
        work: by name; each call does the work once and returns its milliseconds.
        title: for the progress lines.

    Returns:
        Milliseconds by name, one for each round after the warm-up.
    """
    progress = Progress(title, setting.warmup + setting.rounds)
    return take_turns(work, rounds=setting.rounds, warmup=setting.warmup, seed=setting.seed, note=progress.advance)


class Progress:
    """One line on stderr after a step of long work, at most every few seconds, and always after the last one."""

    def __init__(self, title: str, total: int, every: float = 5.0) -> None:
        self.title, self.total, self.every = title, total, every
        self.done, self.start, self.said = 0, time.monotonic(), time.monotonic()

    def advance(self, what: str = "") -> None:
        """Count one more step, and print how far the work is."""
        self.done += 1
        now = time.monotonic()
        if now - self.said >= self.every or self.done == self.total:
            self.said = now
            left = (now - self.start) / self.done * (self.total - self.done)
            name = f" ({what})" if what else ""
            print(f"{self.title}: {self.done} of {self.total}{name}, {left:.0f} s left", file=sys.stderr, flush=True)


# -- statistics ----------------------------------------------------------------------------------------------

Interval = dict[str, float]


def exact(value: float) -> Interval:
    """A figure without noise, such as a number of bytes."""
    return {"median": value, "low": value, "high": value}


def as_interval(median: stats.Median) -> Interval:
    """A median as results hold it."""
    return {"median": median.value, "low": median.low, "high": median.high}


def median_interval(values: Sequence[float]) -> Interval:
    """The median and its 95 % interval: see `lopsided.stats.median_interval`."""
    return as_interval(stats.median_interval(values))


def ratio(milliseconds: Mapping[str, Sequence[float]], name: str, reference: str) -> Interval:
    """The median over rounds of one variant's time as a multiple of another's in the same round."""
    return as_interval(stats.median_ratio(milliseconds[name], milliseconds[reference]))
