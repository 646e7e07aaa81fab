"""Linear regression by chains of random sketches: is convergence linear in r/d?

Notation: X of n x d_in with independent N(0, 1) entries, Y of n x d_out, and

    f(W) = ‖X·Wᵀ - Y‖²/(2n),    ∇f(W) = (W - W*)·C,    C = XᵀX/n,    L = λ_max(C),    μ = λ_min(C).

Full gradients and exact steps of 1/L, a fresh sketch at each link (`chains` holds the step). The theorem promises a
contraction of 1 - (μ/L)·(r/d) a link; the rate measured is 1 - (gap_T/gap_0)^{1/T} over T links of one run, and the
claim is that it grows in proportion to r/d. T is in proportion to d/r, so that every rank gets equally far under it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lopsided.lab.intervals import largest, largest_mean, slope
from lopsided.lab.projected_descent import Side, curve, descend, rate, width
from lopsided.lab.protocol import Expected, Experiment, Line, Measured, Outcome, Plot, Request
from lopsided.method.dense import Orthonormal
from lopsided.theory import Problem

SAMPLES, D_IN, D_OUT = 500, 20, 10
NOISE = 0.1
RANKS: dict[Side, tuple[int, ...]] = {"right": (1, 2, 5, 10, 20), "left": (1, 2, 5, 10)}


@dataclass(frozen=True)
class Regression:
    """One problem a run.

    Shapes:
        X: (seeds, n, d_in); Y: (seeds, n, d_out)
    """

    X: np.ndarray
    Y: np.ndarray

    @cached_property
    def C(self) -> np.ndarray:
        return self.X.transpose(0, 2, 1) @ self.X / self.X.shape[1]

    @cached_property
    def best(self) -> np.ndarray:
        """W*: (seeds, d_out, d_in)"""
        moments = self.X.transpose(0, 2, 1) @ self.Y / self.X.shape[1]
        return np.linalg.solve(self.C, moments).transpose(0, 2, 1)

    @cached_property
    def curvatures(self) -> np.ndarray:
        """The eigenvalues of C, from the smallest: (seeds, d_in)"""
        return np.linalg.eigvalsh(self.C)

    @property
    def smoothness(self) -> np.ndarray:
        return self.curvatures[:, -1]

    @property
    def pl(self) -> np.ndarray:
        return self.curvatures[:, 0]

    def gradient(self, W: np.ndarray) -> np.ndarray:
        return (W - self.best) @ self.C

    def gap(self, W: np.ndarray) -> np.ndarray:
        """f(W) - f*, without the digits that subtracting f* would cost."""
        off = W - self.best
        return 0.5 * np.sum(off @ self.C * off, axis=(1, 2))


def draw_regression(*, seeds: int, samples: int, d_in: int, d_out: int, noise: float) -> Regression:
    """Targets X·Wᵀ + noise·N(0, 1), with entries of W from N(0, 1)."""
    draw = np.random.RandomState(0)
    X = draw.standard_normal((seeds, samples, d_in))
    W = draw.standard_normal((seeds, d_out, d_in))
    return Regression(X, X @ W.transpose(0, 2, 1) + noise * draw.standard_normal((seeds, samples, d_out)))


def gaps_of(problem: Regression, W: np.ndarray, side: Side, r: int, horizon: int) -> np.ndarray:
    """The gap at the start and after each of horizon·d/r links: (links + 1, seeds)"""
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


def bound_share(problem: Regression, gaps: np.ndarray, share: float) -> Measured:
    """The largest share of its bound that the gap's mean over runs reaches at any link; share is r/d.

    Each run's gap is divided by the bound for its own L and μ, whose mean is at most 1 where the theorem holds.
    """
    bounds = [
        [
            Problem(gap=gap, smoothness=L, step=1 / L, lambda_min=share, pl=mu).gap_after(link)
            for gap, L, mu in zip(gaps[0], problem.smoothness, problem.pl, strict=True)
        ]
        for link in range(1, len(gaps))
    ]
    return largest_mean(gaps[1:] / np.array(bounds))


def run(request: Request) -> Outcome:
    seeds, horizon = request.number_of_seeds(quick=20, full=40), request.pick(quick=16, full=24)
    problem = draw_regression(seeds=seeds, samples=SAMPLES, d_in=D_IN, d_out=D_OUT, noise=NOISE)
    W = np.zeros((seeds, D_OUT, D_IN))
    exponents, shares, descents, rates = [], [], [], []
    details: dict[str, Any] = {}
    for side, ranks in RANKS.items():
        d = width(W, side)
        parts = np.array(ranks) / d
        found = []
        for r in ranks:
            gaps = gaps_of(problem, W, side, r, horizon)
            found.append(rate(gaps))
            shares.append(bound_share(problem, gaps, r / d))
            if side == "right":
                descents.append(curve(f"r = {r}", np.arange(len(gaps)) * r / d, gaps / gaps[0]))
            request.note(f"{side}, r = {r}")
        by_rank = np.array(found)
        exponents.append(slope(parts, by_rank.T))
        details[f"{side}: rate·d/r"] = dict(zip(ranks, (by_rank.mean(axis=1) / parts).tolist(), strict=True))
        rates.append(curve(f"{side}, d = {d}", parts, by_rank))
    promised = float((problem.pl / problem.smoothness).mean())
    parts = np.array(RANKS["right"]) / D_IN
    rates.append(Line(name="promised: (μ/L)·(r/d)", x=parts.tolist(), y=(promised * parts).tolist(), style="dashed"))
    return Outcome(
        measured=[*exponents, largest(shares)],
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
        details=details | {"μ/L": promised},
        plots=[
            Plot(
                name="descent",
                title="Right sketches: share of the first gap that is left, mean and 10 to 90 % of runs",
                x="links · r/d",
                y="(f - f*) / (f(0) - f*)",
                lines=descents,
                log="y",
            ),
            Plot(
                name="rates",
                title="Rate over the share of the width that a sketch reads, mean and 10 to 90 % of runs",
                x="r/d",
                y="1 - factor by which a link shrinks the gap",
                lines=rates,
                log="xy",
            ),
        ],
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
)
