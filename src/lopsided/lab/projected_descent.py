"""Chains of projected gradient steps, many runs at once: what the experiments on RAC-LoRA's rates share.

Notation: a run has one matrix W of d_out x d_in. A link draws a fresh sketch S of (r, d), with the projection
H = Sᵀ(S·Sᵀ)⁺S, and takes the exact step of size γ:

    right    W ← W - γ·∇f(W)·H     trains B, d = d_in
    left     W ← W - γ·H·∇f(W)     trains A, d = d_out
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from lopsided.method.sketch import Sketch
from lopsided.plotting.svg import Trace

SketchSide = Literal["right", "left"]
# About as many points of a curve are drawn.
MOST_POINTS = 200


def draw_sketches(sketch: Sketch, r: int, d: int, *, seeds: int, link: int) -> np.ndarray:
    """Return the sketches of one link, one per run: (seeds, r, d), float64."""
    return np.stack([sketch.sample(r, d, seed=seed, link=link) for seed in range(seeds)]).astype(np.float64)


def project(G: np.ndarray, S: np.ndarray, side: SketchSide) -> np.ndarray:
    """Return G·H, or H·G on the left, for sketches of full rank.

    Shapes:
        G: (seeds, d_out, d_in); S: (seeds, r, d) with d the width of that side -> (seeds, d_out, d_in)
    """
    if side == "left":
        return project(G.transpose(0, 2, 1), S, "right").transpose(0, 2, 1)
    St = S.transpose(0, 2, 1)
    return G @ St @ np.linalg.solve(S @ St, S)


def width(W: np.ndarray, side: SketchSide) -> int:
    """Return d, the width that the sketches of a side have."""
    return W.shape[2 if side == "right" else 1]


def descend(
    gradient: Callable[[np.ndarray], np.ndarray],
    measure: Callable[[np.ndarray], np.ndarray],
    W: np.ndarray,
    *,
    step: np.ndarray,
    sketch: Sketch,
    r: int,
    side: SketchSide,
    links: int,
    target: np.ndarray | None = None,
) -> np.ndarray:
    """Return the values of `measure` at the start and after each link.

    Args:
        step: γ of each run.
        links: at most so many; fewer once every run has measured its `target` or less.

    Shapes:
        W: (seeds, d_out, d_in); step, target: (seeds,) -> (links + 1, seeds)
    """
    values = [measure(W)]
    reached = np.zeros(len(W), dtype=bool)
    for link in range(links):
        S = draw_sketches(sketch, r, width(W, side), seeds=len(W), link=link)
        W = W - step[:, None, None] * project(gradient(W), S, side)
        values.append(measure(W))
        if target is not None:
            reached |= values[-1] <= target
            if reached.all():
                break
    return np.array(values)


def rate(gaps: np.ndarray) -> np.ndarray:
    """Return 1 - ρ, with ρ the factor by which a link shrank the gap in the geometric mean.

    Shapes:
        gaps: (links + 1, seeds) -> (seeds,)
    """
    return 1 - (gaps[-1] / gaps[0]) ** (1 / (len(gaps) - 1))


def curve(name: str, x: ArrayLike, values: np.ndarray) -> Trace:
    """Return the runs' mean with a band from 10 to 90 % of them, at most about 200 points: values of (points, runs)."""
    every = slice(None, None, max(1, len(values) // MOST_POINTS))
    low, high = np.quantile(values, (0.1, 0.9), axis=1)
    return Trace(
        name=name,
        x=np.asarray(x)[every].tolist(),
        y=values.mean(axis=1)[every].tolist(),
        low=low[every].tolist(),
        high=high[every].tolist(),
    )
