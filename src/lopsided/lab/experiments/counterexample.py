"""A quadratic on which descent with both factors diverges at the step 1/L, and with a fresh random factor converges.

Notation: weights W of 3 x 3, f(W) = Σ_ij m_ij·w_ij²/2 + 10·Σ_ij w_ij with m = Diag(10, 1, …, 1) over the nine entries,
so that L = 10; rank 1, W = 0 and B = 0 at the start, A ~ N(0, 1), steps of 1/L, links of 100 steps.

    lora    gradient steps on A and B
    cola    the same, merged after each link: A drawn anew, B = 0
    asym    the exact step beside one frozen A: W ← W - ∇f(W)·H/L with H the projection onto A
    rac     the same with A drawn anew for each link
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from lopsided.lab.intervals import over_seeds, quantile, share
from lopsided.lab.protocol import Expected, Experiment, Line, Outcome, Plot, Request

CURVATURE = np.array([[10.0, 1, 1], [1, 1, 1], [1, 1, 1]])
SLOPE = 10.0
L = 10.0
OPTIMUM = -0.5 * SLOPE**2 * np.sum(1 / CURVATURE)
LINK = 100
# A run that is this many times as far from the optimum as its start is will not come back.
FAR = 1e3

Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def gap(W: np.ndarray) -> np.ndarray:
    """(f(W) - f*) / (f(0) - f*): (seeds, 3, 3) -> (seeds,)"""
    value = np.sum(0.5 * CURVATURE * W**2 + SLOPE * W, axis=(1, 2))
    return (value - OPTIMUM) / -OPTIMUM


def gradient(W: np.ndarray) -> np.ndarray:
    return CURVATURE * W + SLOPE


def both(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One gradient step on both factors."""
    G = gradient(W0 + B @ A)
    return W0, B - G @ A.transpose(0, 2, 1) / L, A - B.transpose(0, 2, 1) @ G / L


def exact(W0: np.ndarray, B: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The exact step on B, which is a projected gradient step of W."""
    G = gradient(W0 + B @ A)
    return W0, B - G @ A.transpose(0, 2, 1) / np.sum(A * A, axis=2, keepdims=True) / L, A


def descend(step: Step, *, redraw: bool, links: int, seeds: int) -> np.ndarray:
    """The gap at the start and after each link: (links + 1, seeds). Runs that leave the floats give infinity."""
    draw = np.random.RandomState(0)
    W, B, A = np.zeros((seeds, 3, 3)), np.zeros((seeds, 3, 1)), draw.standard_normal((seeds, 1, 3))
    gaps = [gap(W)]
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(links):
            if redraw and len(gaps) > 1:
                W, B, A = W + B @ A, np.zeros_like(B), draw.standard_normal(A.shape)
            for _ in range(LINK):
                W, B, A = step(W, B, A)
            gaps.append(gap(W + B @ A))
    return np.nan_to_num(np.array(gaps), nan=np.inf, posinf=np.inf)


RUNS: dict[str, tuple[Step, bool]] = {
    "lora": (both, False),
    "cola": (both, True),
    "asym": (exact, False),
    "rac": (exact, True),
}


def run(request: Request) -> Outcome:
    seeds, links = request.number_of_seeds(quick=40, full=40), 100
    gaps = {name: descend(step, redraw=redraw, links=links, seeds=seeds) for name, (step, redraw) in RUNS.items()}
    shown = {name: np.minimum(found, FAR) for name, found in gaps.items()}
    diverged = {name: (found[-1] > FAR).mean() for name, found in gaps.items()}
    lines = []
    for name, found in shown.items():
        # Runs at the optimum reach the last bits of a float, which are noise on a logarithmic axis.
        low, middle, high = (np.maximum(np.quantile(found, q, axis=1), 1e-12).tolist() for q in (0.1, 0.5, 0.9))
        # COLA's line lies on LoRA's, where both diverge.
        style: Literal["line", "dashed"] = "dashed" if name == "cola" else "line"
        lines.append(Line(name=name, x=list(range(links + 1)), y=middle, low=low, high=high, style=style))
    return Outcome(
        measured=[
            share(gaps["lora"][-1] > FAR),
            share(gaps["cola"][-1] > FAR),
            over_seeds(shown["asym"][-1]),
            quantile(gaps["rac"][-1], 0.9),
        ],
        settings={"seeds": seeds, "links": links, "steps a link": LINK, "step": "1/L", "rank": 1},
        details={"diverged": diverged, "median gap": {name: np.median(found[-1]) for name, found in shown.items()}},
        plots=[
            Plot(
                name="gap",
                title=f"Share of the first gap that is left, median and 10 to 90 % of runs; {FAR:g} stands for more",
                x="links",
                y="(f - f*) / (f(0) - f*)",
                lines=lines,
                log="y",
            )
        ],
    )


EXPERIMENT = Experiment(
    name="counterexample",
    claim="On a quadratic, LoRA and COLA diverge at the step 1/L, asymmetric LoRA stops short, RAC-LoRA converges.",
    meaning=(
        "With both factors in training, a learning rate that full fine-tuning tolerates can blow up, since the factors "
        "scale each other's steps. Freezing one factor makes the step safe, and drawing it anew lets a chain reach "
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
)
