"""Chains of projected gradient steps, many runs at once: what the experiments on RAC-LoRA's rates share.

Notation: a run has one matrix W of d_out x d_in. A link draws a sketch S of (r, d) anew, with the projection
H = Sᵀ(S·Sᵀ)⁺S, and takes the exact step of size γ:

    right    W ← W - γ·∇f(W)·H     trains B, d = d_in
    left     W ← W - γ·H·∇f(W)     trains A, d = d_out
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from lopsided.lab.protocol import Line
from lopsided.method.sketch import Sketch

Side = Literal["right", "left"]


def draw_sketches(sketch: Sketch, r: int, d: int, *, seeds: int, link: int) -> np.ndarray:
    """The sketches of one link, one a run: (seeds, r, d), float64."""
    return np.stack([sketch.sample(r, d, seed=seed, link=link) for seed in range(seeds)]).astype(np.float64)


def project(G: np.ndarray, S: np.ndarray, side: Side) -> np.ndarray:
    """G·H, or H·G on the left, for sketches of full rank.

    Shapes:
        G: (seeds, d_out, d_in); S: (seeds, r, d) with d the width of that side -> (seeds, d_out, d_in)
    """
    if side == "left":
        return project(G.transpose(0, 2, 1), S, "right").transpose(0, 2, 1)
    St = S.transpose(0, 2, 1)
    return G @ St @ np.linalg.solve(S @ St, S)


def width(W: np.ndarray, side: Side) -> int:
    """d, the width that the sketches of a side have."""
    return W.shape[2 if side == "right" else 1]


def descend(
    gradient: Callable[[np.ndarray], np.ndarray],
    measure: Callable[[np.ndarray], np.ndarray],
    W: np.ndarray,
    *,
    step: np.ndarray,
    sketch: Sketch,
    r: int,
    side: Side,
    links: int,
    target: np.ndarray | None = None,
) -> np.ndarray:
    """What `measure` says at the start and after each link.

    Args:
        step: γ of each run.
        links: at most so many; fewer once every run has measured its `target` or less.

    Shapes:
        W: (seeds, d_out, d_in); step, target: (seeds,) -> (links + 1, seeds)
    """
    seen = [measure(W)]
    reached = np.zeros(len(W), dtype=bool)
    for link in range(links):
        S = draw_sketches(sketch, r, width(W, side), seeds=len(W), link=link)
        W = W - step[:, None, None] * project(gradient(W), S, side)
        seen.append(measure(W))
        if target is not None:
            reached |= seen[-1] <= target
            if reached.all():
                break
    return np.array(seen)


def rate(gaps: np.ndarray) -> np.ndarray:
    """1 - ρ, with ρ the factor by which a link shrank the gap in the geometric mean: (links + 1, seeds) -> (seeds,)"""
    return 1 - (gaps[-1] / gaps[0]) ** (1 / (len(gaps) - 1))


def curve(name: str, x: Any, values: np.ndarray) -> Line:
    """The runs' mean with a band from 10 to 90 % of them, at most about 200 points: values of (points, runs)."""
    every = slice(None, None, max(1, len(values) // 200))
    low, high = np.quantile(values, (0.1, 0.9), axis=1)
    return Line(
        name=name,
        x=np.asarray(x)[every].tolist(),
        y=values.mean(axis=1)[every].tolist(),
        low=low[every].tolist(),
        high=high[every].tolist(),
    )
