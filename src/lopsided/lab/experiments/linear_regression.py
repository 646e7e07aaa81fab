"""Linear regression by chains of random sketches: is convergence linear in r/d?

Notation: as in `regression_problems`. Full gradients and exact steps of 1/L, a fresh sketch at each link
(`projected_descent` holds the step). The theorem promises a contraction of 1 - (μ/L)·(r/d) per link; the rate measured
is 1 - (gap_T/gap_0)^{1/T} over T links of one run, and the claim is that it grows in proportion to r/d. T is in
proportion to d/r, so that every rank gets equally far under it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lopsided.lab.intervals import largest, largest_mean, slope
from lopsided.lab.projected_descent import SketchSide, curve, descend, rate, width
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.lab.regression_problems import Regression, draw_regression
from lopsided.method.dense import Orthonormal
from lopsided.plotting.svg import Drawing, Trace
from lopsided.theory import Problem

SAMPLES, D_IN, D_OUT = 500, 20, 10
NOISE = 0.1
RANKS: dict[SketchSide, tuple[int, ...]] = {"right": (1, 2, 5, 10, 20), "left": (1, 2, 5, 10)}


def gaps_by_link(problem: Regression, W: np.ndarray, side: SketchSide, r: int, horizon: int) -> np.ndarray:
    """Return the gap at the start and after each of horizon·d/r links: (links + 1, seeds)"""
    return descend(
        problem.gradient,
        problem.gap,
        W,
        step=1 / problem.smoothness,
        sketch=Orthonormal(),
        r=r,
        side=side,
        links=horizon * width(W, side) // r,
    )


def share_of_bound(problem: Regression, gaps: np.ndarray, part: float) -> Measured:
    """Return the largest share of its bound that the gap's mean over runs reaches at any link; part is r/d.

    Each run's gap is divided by the bound for its own L and μ, whose mean is at most 1 where the theorem holds.
    """
    bounds = [
        [
            Problem(gap=gap, smoothness=L, step=1 / L, lambda_min=part, pl=mu).gap_after(link)
            for gap, L, mu in zip(gaps[0], problem.smoothness, problem.pl, strict=True)
        ]
        for link in range(1, len(gaps))
    ]
    return largest_mean(gaps[1:] / np.array(bounds))


@dataclass(frozen=True, kw_only=True)
class SideRates:
    """What the descents with sketches of one side came to.

    Args:
        d: the width of that side.
        ranks: the sketches'.
        gaps: of each rank, at the start and after each link.
        shares: of the theorem's bound, by rank.

    Shapes:
        gaps: (links + 1, seeds) per rank
    """

    d: int
    ranks: tuple[int, ...]
    gaps: Sequence[np.ndarray]
    shares: Sequence[Measured]

    @property
    def parts(self) -> np.ndarray:
        """r/d: (ranks,)"""
        return np.array(self.ranks) / self.d

    @property
    def rates(self) -> np.ndarray:
        """The rate of each run: (ranks, seeds)"""
        return np.array([rate(gaps) for gaps in self.gaps])

    @property
    def relative_rates(self) -> dict[int, float]:
        """The mean rate times d/r, by rank."""
        return dict(zip(self.ranks, (self.rates.mean(axis=1) / self.parts).tolist(), strict=True))


def descend_all(problem: Regression, side: SketchSide, horizon: int, request: Request) -> SideRates:
    """Descend from W = 0 with sketches of each rank of a side."""
    # Of plain memory order: `problem.best` is a transposed array, and products round as their operands lie.
    W = np.zeros(problem.best.shape)
    d = width(W, side)
    gaps, shares = [], []
    for r in RANKS[side]:
        gaps.append(gaps_by_link(problem, W, side, r, horizon))
        shares.append(share_of_bound(problem, gaps[-1], r / d))
        request.note(f"{side}, r = {r}")
    return SideRates(d=d, ranks=RANKS[side], gaps=gaps, shares=shares)


def run(request: Request) -> Outcome:
    """Descend with sketches of both sides, and compare the rates of the ranks."""
    seeds, horizon = request.number_of_seeds(quick=20, full=40), request.pick(quick=16, full=24)
    problem = draw_regression(seeds=seeds, samples=SAMPLES, d_in=D_IN, d_out=D_OUT, noise=NOISE)
    sides = {side: descend_all(problem, side, horizon, request) for side in RANKS}
    condition = float((problem.pl / problem.smoothness).mean())
    return Outcome(
        measured=[
            *(slope(result.parts, result.rates.T) for result in sides.values()),
            largest([share for result in sides.values() for share in result.shares]),
        ],
        settings={
            "seeds": seeds,
            "samples": SAMPLES,
            "d_in": D_IN,
            "d_out": D_OUT,
            "noise": NOISE,
            "links": f"{horizon}·d/r",
            "step": "1/L",
            "sketch": "Orthonormal",
        },
        details={f"{side}: rate·d/r": result.relative_rates for side, result in sides.items()} | {"μ/L": condition},
        plots=[_descent_drawing(sides["right"]), _rates_drawing(sides, condition)],
    )


def _descent_drawing(right: SideRates) -> Drawing:
    return Drawing(
        name="descent",
        title="Right sketches: share of the first gap that is left, mean and 10 to 90 % of runs",
        x="links · r/d",
        y="(f - f*) / (f(0) - f*)",
        lines=[
            curve(f"r = {r}", np.arange(len(gaps)) * r / right.d, gaps / gaps[0])
            for r, gaps in zip(right.ranks, right.gaps, strict=True)
        ],
        log="y",
    )


def _rates_drawing(sides: Mapping[SketchSide, SideRates], condition: float) -> Drawing:
    parts = sides["right"].parts
    return Drawing(
        name="rates",
        title="Rate over the share of the width that a sketch reads, mean and 10 to 90 % of runs",
        x="r/d",
        y="1 - factor by which a link shrinks the gap",
        lines=[
            *(curve(f"{side}, d = {result.d}", result.parts, result.rates) for side, result in sides.items()),
            Trace(name="promised: (μ/L)·(r/d)", x=parts.tolist(), y=(condition * parts).tolist(), style="dashed"),
        ],
        log="xy",
    )


EXPERIMENT = Experiment(
    name="linear-regression",
    claim="With a fresh sketch at each link, linear regression converges at a rate in proportion to r/d.",
    meaning=(
        "Halving the rank of a chain that trains one factor about doubles the links that it needs, and changes nothing "
        "about where it ends. Count links times rank, not links, when you compare chains."
    ),
    source="Malinovsky et al. 2024, arXiv:2410.08305, Figure 2 and the rate under the PL inequality",
    expected=(
        Expected(what="exponent of the rate over r/d, training B (right)", low=0.9, high=1.1),
        Expected(what="exponent of the rate over r/d, training A (left)", low=0.9, high=1.1),
        Expected(what="largest share of the theorem's bound that the mean gap reaches", high=1.0),
    ),
    run=run,
    place=20,
)
