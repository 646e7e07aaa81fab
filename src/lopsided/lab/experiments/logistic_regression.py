"""Logistic regression with a non-convex regulariser by chains of random sketches: the general rate.

Notation: X of n x d_in, labels y_ik = ±1 for d_out separate outputs, and

    f(W) = Σ_k (1/n)·Σ_i ln(1 + exp(-y_ik·w_k·x_i)) + λ·Σ w²/(1 + w²).

The second derivative of w²/(1 + w²) lies between -1/2 and 2, so that f is not convex far from 0, and it is L-smooth
with L = λ_max(XᵀX/n)/4 + 2λ. As f >= 0, f(W⁰) is at least the first gap. Full gradients and exact steps of 1/L, a fresh
sketch at each link (`projected_descent` holds the step). The theorem bounds the least E‖∇f‖² of T links by
2·gap/((r/d)·γ·T); the links to a fixed squared gradient should then grow as d/r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from lopsided.lab.intervals import ONE_RUN, largest, mean_and_reach, slope
from lopsided.lab.projected_descent import SketchSide, curve, descend, width
from lopsided.lab.protocol import Expected, Experiment, Measured, Outcome, Request
from lopsided.method.dense import Orthonormal
from lopsided.plotting.svg import Drawing, Trace
from lopsided.theory import Problem

D_IN, D_OUT = 20, 10
REGULARISER = 0.1
# The share of labels that a linear rule does not give; without them the best weights would be infinite.
FLIPPED = 0.1
# Starts so far out that most entries have left the convex part, |w| < 1/√3.
START = 2.0
# Of the first squared gradient norm.
TARGET = 1e-3
# The most links, times d/r.
HORIZON = 500
RANKS: dict[SketchSide, tuple[int, ...]] = {"right": (1, 2, 5, 10, 20), "left": (1, 2, 5, 10)}


@dataclass(frozen=True)
class Logistic:
    """One problem per run.

    Shapes:
        X: (seeds, n, d_in); Y: (seeds, n, d_out) of ±1
    """

    X: np.ndarray
    Y: np.ndarray
    regulariser: float

    @property
    def smoothness(self) -> np.ndarray:
        """L: (seeds,)"""
        C = self.X.transpose(0, 2, 1) @ self.X / self.X.shape[1]
        return np.linalg.eigvalsh(C)[:, -1] / 4 + 2 * self.regulariser

    def value(self, W: np.ndarray) -> np.ndarray:
        """Return f(W): (seeds,)"""
        margins = self.Y * (self.X @ W.transpose(0, 2, 1))
        loss = np.logaddexp(0, -margins).sum(axis=(1, 2)) / self.X.shape[1]
        return loss + self.regulariser * (W**2 / (1 + W**2)).sum(axis=(1, 2))

    def gradient(self, W: np.ndarray) -> np.ndarray:
        """Return ∇f(W): (seeds, d_out, d_in)"""
        margins = self.Y * (self.X @ W.transpose(0, 2, 1))
        pull = -self.Y * expit(-margins) / self.X.shape[1]
        return pull.transpose(0, 2, 1) @ self.X + self.regulariser * 2 * W / (1 + W**2) ** 2

    def squared_gradient(self, W: np.ndarray) -> np.ndarray:
        """Return ‖∇f‖²: (seeds,)"""
        return np.sum(self.gradient(W) ** 2, axis=(1, 2))


def draw_logistic(*, seeds: int, samples: int) -> Logistic:
    """Return problems whose labels follow a random linear rule, except for a tenth of them."""
    draw = np.random.RandomState(0)
    X = draw.standard_normal((seeds, samples, D_IN))
    teacher = draw.standard_normal((seeds, D_IN, D_OUT))
    kept = np.where(draw.random_sample((seeds, samples, D_OUT)) < FLIPPED, -1.0, 1.0)
    return Logistic(X, np.sign(X @ teacher) * kept, REGULARISER)


def first_at_most(squares: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the first link at which each run is at or under its target; NaN for none.

    Shapes:
        squares: (links + 1, seeds); target: (seeds,) -> (seeds,)
    """
    under = squares <= target
    return np.where(under.any(axis=0), under.argmax(axis=0), np.nan)


def share_of_bound(problem: Logistic, squares: np.ndarray, first: np.ndarray, part: float) -> Measured:
    """Return the largest share of its bound that the least mean of ‖∇f‖² so far reaches.

    The bound after T links is about the iterates 0 to T - 1.

    Args:
        first: f(W⁰).
        part: r/d.
    """
    after_one_link = [
        Problem(gap=gap, smoothness=L, step=1 / L, lambda_min=part).gradient_after(1)
        for gap, L in zip(first, problem.smoothness, strict=True)
    ]
    means, reach = mean_and_reach(squares[:-1] / np.array(after_one_link))

    # Without noise, the bound after T links is that of one link divided by T.
    def worst(ratios: np.ndarray) -> float:
        return float(np.max(np.minimum.accumulate(ratios) * np.arange(1, len(squares))))

    if reach is None:
        return Measured(value=worst(means), why=ONE_RUN)
    return Measured(value=worst(means), interval=(worst(means - reach), worst(means + reach)))


@dataclass(frozen=True, kw_only=True)
class SideLinks:
    """What the descents with sketches of one side came to.

    Args:
        d: the width of that side.
        ranks: the sketches'.
        squares: of each rank, ‖∇f‖² at the start and after each link.
        links: until the target, NaN where a run did not reach it.
        shares: of the theorem's bound, by rank.

    Shapes:
        squares: (links + 1, seeds) per rank; links: (ranks, seeds)
    """

    d: int
    ranks: tuple[int, ...]
    squares: Sequence[np.ndarray]
    links: np.ndarray
    shares: Sequence[Measured]

    @property
    def ratios(self) -> np.ndarray:
        """d/r: (ranks,)"""
        return self.d / np.array(self.ranks)

    @property
    def relative_links(self) -> dict[int, float]:
        """The mean number of links times r/d, by rank."""
        return dict(zip(self.ranks, (self.links.mean(axis=1) / self.ratios).tolist(), strict=True))


def descend_all(problem: Logistic, W: np.ndarray, side: SketchSide, request: Request) -> SideLinks:
    """Descend from W with sketches of each rank of a side, until every run has reached its target."""
    d, target, first = width(W, side), TARGET * problem.squared_gradient(W), problem.value(W)
    squares, links, shares = [], [], []
    for r in RANKS[side]:
        squares.append(
            descend(
                problem.gradient,
                problem.squared_gradient,
                W,
                step=1 / problem.smoothness,
                sketch=Orthonormal(),
                r=r,
                side=side,
                links=HORIZON * d // r,
                target=target,
            )
        )
        links.append(first_at_most(squares[-1], target))
        shares.append(share_of_bound(problem, squares[-1], first, r / d))
        late = int(np.isnan(links[-1]).sum())
        reached = f"{late} of {len(W)} runs did not reach the target" if late else f"{links[-1].mean():.0f} links"
        request.note(f"{side}, r = {r}: {reached}")
    return SideLinks(d=d, ranks=RANKS[side], squares=squares, links=np.array(links), shares=shares)


def run(request: Request) -> Outcome:
    """Descend with sketches of both sides, and compare the links that the ranks need."""
    seeds, samples = request.number_of_seeds(quick=8, full=30), request.pick(quick=200, full=500)
    problem = draw_logistic(seeds=seeds, samples=samples)
    W = START * np.random.RandomState(1).standard_normal((seeds, D_OUT, D_IN))
    sides = {side: descend_all(problem, W, side, request) for side in RANKS}
    return Outcome(
        measured=[
            *(slope(result.ratios, result.links.T) for result in sides.values()),
            largest([share for result in sides.values() for share in result.shares]),
        ],
        settings={
            "seeds": seeds,
            "samples": samples,
            "d_in": D_IN,
            "d_out": D_OUT,
            "λ": REGULARISER,
            "flipped": FLIPPED,
            "start": f"{START:g}·N(0, 1)",
            "target": TARGET,
            "step": "1/L",
            "sketch": "Orthonormal",
        },
        details={f"{side}: links·r/d": result.relative_links for side, result in sides.items()},
        plots=[_gradient_drawing(sides["right"]), _links_drawing(sides)],
    )


def _gradient_drawing(right: SideLinks) -> Drawing:
    return Drawing(
        name="gradient",
        title="Right sketches: squared norm of the gradient, mean and 10 to 90 % of runs",
        x="links · r/d",
        y="‖∇f‖²",
        lines=[
            curve(f"r = {r}", np.arange(len(squares)) * r / right.d, squares)
            for r, squares in zip(right.ranks, right.squares, strict=True)
        ],
        log="y",
    )


def _links_drawing(sides: Mapping[SketchSide, SideLinks]) -> Drawing:
    curves = [curve(f"{side}, d = {result.d}", result.ratios, result.links) for side, result in sides.items()]
    # Its last point is the sketch of full rank, with d/r = 1.
    whole = curves[0]
    guide = Trace(name="in proportion to d/r", x=whole.x, y=[whole.y[-1] * ratio for ratio in whole.x], style="dashed")
    return Drawing(
        name="links",
        title=f"Links until ‖∇f‖² is {TARGET:g} of its start, mean and 10 to 90 % of runs",
        x="d/r",
        y="links",
        lines=[*curves, guide],
        log="xy",
    )


EXPERIMENT = Experiment(
    name="logistic-regression",
    claim="On a non-convex logistic loss, the links that reach a fixed squared gradient grow as d/r, within the bound.",
    meaning=(
        "Without convexity, too, a smaller rank costs links in proportion and no more, as long as the frozen factor "
        "is drawn again at each link. The bound gives a safe number of links, and a run may need far fewer."
    ),
    source="Malinovsky et al. 2024, arXiv:2410.08305, the general non-convex rate",
    expected=(
        Expected(what="exponent of the links to the target over d/r, training B (right)", low=0.9, high=1.1),
        Expected(what="exponent of the links to the target over d/r, training A (left)", low=0.9, high=1.1),
        Expected(what="largest share of the theorem's bound that the least mean squared gradient reaches", high=1.0),
    ),
    run=run,
    place=30,
)
