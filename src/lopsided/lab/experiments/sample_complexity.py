"""How the gap of a single run grows with the rank and shrinks with the samples: √r/√N.

Notation: as in `worst_gap`. The exponents are slopes of ln gap over ln N at one rank, and over ln r at one N. For N,
the samples of a seed are nested; for r, its A are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lopsided.lab.intervals import over_seeds, slope
from lopsided.lab.mean_lines import mean_line
from lopsided.lab.protocol import Expected, Experiment, Outcome, Request
from lopsided.lab.worst_gap import (
    RADIUS,
    WIDTHS,
    Worlds,
    bounds,
    gap_at_zero,
    linear_sup_gap,
    new_A,
    new_worlds,
    samples,
    sup_gap,
)
from lopsided.plotting.svg import Drawing, Trace

SIZES = [64, 128, 256, 512, 1024, 2048]
RANKS = [1, 2, 4, 8, 16]
RANK, SIZE = 4, 512
LINEAR_WORLDS, LINEAR_DRAWS = 200, 50
# Where the bands of drawings end: an ascent that finds nothing has a gap about zero, which has no logarithm.
TINY = 1e-4

# A setting of the experiment: N and r.
Place = tuple[int, int]


def over_n() -> list[Place]:
    """Return all N at one rank."""
    return [(n, RANK) for n in SIZES]


def over_r() -> list[Place]:
    """Return all ranks at one N."""
    return [(SIZE, r) for r in RANKS]


@dataclass(frozen=True, kw_only=True)
class GapTable:
    """The largest gap and its explicit bound, by N and r.

    Shapes:
        each: (seeds,)
    """

    gaps: Mapping[Place, np.ndarray]
    bounds: Mapping[Place, np.ndarray]

    def gaps_at(self, places: Sequence[Place]) -> np.ndarray:
        """Return the gaps: (seeds, places)"""
        return np.stack([self.gaps[place] for place in places], axis=1)

    def bounds_at(self, places: Sequence[Place]) -> np.ndarray:
        """Return the bounds: (seeds, places)"""
        return np.stack([self.bounds[place] for place in places], axis=1)

    @property
    def ratios(self) -> np.ndarray:
        """Bound over gap: (places, seeds)"""
        return np.stack([self.bounds[place] / np.abs(gap) for place, gap in self.gaps.items()])


def measure_gaps(worlds: Worlds, steps: int, request: Request) -> GapTable:
    """Search the largest gap at each N and r."""
    A, (x, y) = new_A(worlds, max(RANKS)), samples(worlds, max(SIZES))
    gaps: dict[Place, np.ndarray] = {}
    explicit: dict[Place, np.ndarray] = {}
    for n, r in dict.fromkeys(over_n() + over_r()):
        first_rows = [a[:, :, :r] for a in A]
        gaps[n, r] = sup_gap(worlds, first_rows, x[:, :, :n], y[:, :, :n], steps=steps)[:, 0].numpy()
        explicit[n, r] = bounds(worlds, first_rows, n)[:, 0].numpy()
        request.note(f"N = {n}, r = {r}: gap {gaps[n, r].mean():.3f}")
    return GapTable(gaps=gaps, bounds=explicit)


def run(request: Request) -> Outcome:
    """Search the largest gap over N and over r, and compare it with the bound and with a linear model."""
    seeds, steps = request.number_of_seeds(quick=4, full=10), request.pick(quick=150, full=300)
    worlds = new_worlds(seeds)
    table = measure_gaps(worlds, steps, request)
    at_zero = gap_at_zero(worlds, SIZES).numpy()
    return Outcome(
        measured=[
            slope(SIZES, table.gaps_at(over_n())),
            slope(SIZES, at_zero),
            slope(RANKS, table.gaps_at(over_r())),
            over_seeds(table.ratios.min(axis=0)),
            slope(SIZES, [linear_mean(n, r) for n, r in over_n()]),
            slope(RANKS, [linear_mean(n, r) for n, r in over_r()]),
        ],
        settings={
            **{"seeds": seeds, "steps": steps, "N": SIZES, "r": RANKS, "r of the slope in N": RANK},
            **{"N of the slope in r": SIZE, "network": list(WIDTHS), "radius of B": RADIUS},
        },
        details={
            "mean gap by N": dict(zip(SIZES, table.gaps_at(over_n()).mean(axis=0))),
            "mean gap by r": dict(zip(RANKS, table.gaps_at(over_r()).mean(axis=0))),
            "mean bound by N": {n: table.bounds[n, r].mean() for n, r in over_n()},
            "mean bound by r": {r: table.bounds[n, r].mean() for n, r in over_r()},
            "bound over gap, median": float(np.median(table.ratios)),
            "slope in r of a linear model with B in a box": slope(
                RANKS, [linear_mean(n, r, box=True) for n, r in over_r()]
            ),
        },
        plots=[_samples_drawing(table, at_zero), _ranks_drawing(table, seeds)],
    )


def _samples_drawing(table: GapTable, at_zero: np.ndarray) -> Drawing:
    return Drawing(
        name="samples",
        title=f"The gap at rank {RANK}, its explicit bound, and the gap without training",
        x="samples N",
        y="gap of the loss, which lies in 0 to 1",
        lines=[
            mean_line("largest gap found", SIZES, table.gaps_at(over_n()), least=TINY),
            mean_line("gap at B = 0 (root mean square)", SIZES, at_zero, least=TINY),
            mean_line("explicit bound", SIZES, table.bounds_at(over_n()), least=TINY),
            guide("1/√N", SIZES, table.gaps_at(over_n()), -0.5),
        ],
        log="xy",
    )


def _ranks_drawing(table: GapTable, seeds: int) -> Drawing:
    return Drawing(
        name="ranks",
        title=f"The gap with {SIZE} samples; mean and 95 % interval over {seeds} seeds",
        x="rank r",
        y="gap of the loss, which lies in 0 to 1",
        lines=[
            mean_line("largest gap found", RANKS, table.gaps_at(over_r()), least=TINY),
            mean_line("explicit bound", RANKS, table.bounds_at(over_r()), least=TINY),
            guide("√r", RANKS, table.gaps_at(over_r()), 0.5),
        ],
        log="xy",
    )


def linear_mean(n: int, r: int, *, box: bool = False) -> float:
    """Return the mean over worlds and draws of the linear model's gap; the same samples for every rank."""
    return float(linear_sup_gap(n, r, worlds=LINEAR_WORLDS, draws=LINEAR_DRAWS, box=box, seed=n).mean())


def guide(name: str, x: list[int], runs: np.ndarray, power: float) -> Trace:
    """Return a line of the claimed slope through the middle of the runs."""
    centre = float(np.exp(np.log(x).mean()))
    height = float(np.exp(np.log(np.maximum(runs, TINY)).mean()))
    return Trace(name=name, x=list(x), y=[height * (place / centre) ** power for place in x], style="dashed")


EXPERIMENT = Experiment(
    name="sample-complexity",
    claim="The largest gap of a single run grows like √r and shrinks like 1/√N, and no run does better than 1/√N.",
    meaning=(
        "Four times the rank costs about twice the generalization gap at most, and four times the samples win it back. "
        "The explicit bound has this shape and is far too large, so compare ranks with it, not losses."
    ),
    source="Kratsios et al. 2025, arXiv:2506.14530; the experiment and the explicit bound are derived for this library",
    expected=(
        Expected(what="slope of ln gap over ln N, 64 to 2048", low=-0.6, high=-0.4),
        Expected(what="slope of ln gap over ln N at B = 0", low=-0.6, high=-0.4),
        Expected(what="slope of ln gap over ln r, 1 to 16, B in a Frobenius ball", low=0.35, high=0.65),
        Expected(what="least ratio of the explicit bound to a measured gap of a seed, mean over seeds", low=1.0),
        Expected(what="slope over ln N of a linear model, exact supremum", low=-0.6, high=-0.4),
        Expected(what="slope over ln r of a linear model, exact supremum", low=0.35, high=0.65),
    ),
    run=run,
    place=80,
)
