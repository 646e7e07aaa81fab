"""A quadratic on which descent with both factors diverges at the step 1/L, and with a fresh random factor converges.

Notation: weights W of 3 x 3, f(W) = Σ_ij m_ij·w_ij²/2 + 10·Σ_ij w_ij with m = Diag(10, 1, …, 1) over the nine entries,
so that L = 10; rank 1, W = 0 and B = 0 at the start, A ~ N(0, 1), steps of 1/L, links of 100 steps.

    lora    gradient steps on A and B
    cola    the same, merged after each link: a fresh A, B = 0
    asym    the exact step next to one frozen A: W ← W - ∇f(W)·H/L with H the projection onto A
    rac     the same with a fresh A for each link
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from lopsided.lab.intervals import over_seeds, quantile, share
from lopsided.lab.mean_lines import quantile_line
from lopsided.lab.protocol import Expected, Experiment, Outcome, Request
from lopsided.plotting.svg import Drawing

CURVATURE = np.array([[10.0, 1, 1], [1, 1, 1], [1, 1, 1]])
SLOPE = 10.0
L = 10.0
OPTIMUM = -0.5 * SLOPE**2 * np.sum(1 / CURVATURE)
LINK, LINKS = 100, 100
# A run that is this many times as far from the optimum as its start is will not come back.
FAR = 1e3
# Where curves end below: runs at the optimum reach the last bits of a float.
TINY = 1e-12

Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def relative_gap(W: np.ndarray) -> np.ndarray:
    """Return (f(W) - f*) / (f(0) - f*): (seeds, 3, 3) -> (seeds,)"""
    value = np.sum(0.5 * CURVATURE * W**2 + SLOPE * W, axis=(1, 2))
    return (value - OPTIMUM) / -OPTIMUM


def gradient(W: np.ndarray) -> np.ndarray:
    """Return ∇f(W): (seeds, 3, 3)"""
    return CURVATURE * W + SLOPE


def both(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take one gradient step on both factors."""
    G = gradient(W0 + B @ A)
    return W0, B - G @ A.transpose(0, 2, 1) / L, A - B.transpose(0, 2, 1) @ G / L


def exact(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take the exact step on B, which is a projected gradient step of W."""
    G = gradient(W0 + B @ A)
    return W0, B - G @ A.transpose(0, 2, 1) / np.sum(A * A, axis=2, keepdims=True) / L, A


@dataclass(frozen=True, kw_only=True)
class Descent:
    """A method: its step, and whether each link merges and draws a fresh A."""

    step: Step
    redraw: bool


DESCENTS = {
    "lora": Descent(step=both, redraw=False),
    "cola": Descent(step=both, redraw=True),
    "asym": Descent(step=exact, redraw=False),
    "rac": Descent(step=exact, redraw=True),
}


def gaps_by_link(descent: Descent, *, links: int, seeds: int) -> np.ndarray:
    """Return the gap at the start and after each link: (links + 1, seeds). Runs that leave the floats give infinity."""
    draw = np.random.RandomState(0)
    W, B, A = np.zeros((seeds, 3, 3)), np.zeros((seeds, 3, 1)), draw.standard_normal((seeds, 1, 3))
    gaps = [relative_gap(W)]
    with np.errstate(over="ignore", invalid="ignore"):
        for link in range(links):
            if descent.redraw and link > 0:
                W, B, A = W + B @ A, np.zeros_like(B), draw.standard_normal(A.shape)
            for _ in range(LINK):
                W, B, A = descent.step(W, B, A)
            gaps.append(relative_gap(W + B @ A))
    return np.nan_to_num(np.array(gaps), nan=np.inf, posinf=np.inf)


def run(request: Request) -> Outcome:
    """Descend with each method from many draws of A."""
    seeds = request.number_of_seeds(quick=40, full=40)
    gaps = {name: gaps_by_link(descent, links=LINKS, seeds=seeds) for name, descent in DESCENTS.items()}
    shown = {name: np.minimum(values, FAR) for name, values in gaps.items()}
    return Outcome(
        measured=[
            share(gaps["lora"][-1] > FAR),
            share(gaps["cola"][-1] > FAR),
            over_seeds(shown["asym"][-1]),
            quantile(gaps["rac"][-1], 0.9),
        ],
        settings={"seeds": seeds, "links": LINKS, "steps a link": LINK, "step": "1/L", "rank": 1},
        details={
            "diverged": {name: (values[-1] > FAR).mean() for name, values in gaps.items()},
            "median gap": {name: np.median(values[-1]) for name, values in shown.items()},
        },
        plots=[_gap_drawing(shown)],
    )


def _gap_drawing(shown: Mapping[str, np.ndarray]) -> Drawing:
    return Drawing(
        name="gap",
        title=f"Share of the first gap that is left, median and 10 to 90 % of runs; {FAR:g} stands for more",
        x="links",
        y="(f - f*) / (f(0) - f*)",
        # COLA's line lies on LoRA's, where both diverge.
        lines=[
            quantile_line(name, values, least=TINY, style="dashed" if name == "cola" else "line")
            for name, values in shown.items()
        ],
        log="y",
    )


EXPERIMENT = Experiment(
    name="counterexample",
    claim="On a quadratic, LoRA and COLA diverge at the step 1/L, asymmetric LoRA stops short, RAC-LoRA converges.",
    meaning=(
        "With both factors in training, a learning rate that full fine-tuning tolerates can blow up, since the factors "
        "scale each other's steps. Freezing one factor makes the step safe, and drawing it again lets a chain reach "
        "what one low-rank update can't."
    ),
    source="Malinovsky et al. 2024, arXiv:2410.08305, Figure 1",
    expected=(
        # Every one of forty runs: no finite number of them puts the lower end of a share's interval at 1.
        Expected(what="share of LoRA's runs that diverge", low=0.9),
        Expected(what="share of COLA's runs that diverge", low=0.9),
        Expected(what="share of the gap that asymmetric LoRA leaves, mean over runs", low=0.6, high=0.9),
        Expected(what="share of the gap that RAC-LoRA leaves in nine runs of ten", high=1e-6),
    ),
    run=run,
    place=10,
)
