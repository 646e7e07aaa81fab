"""Random problems of linear regression, one per run: their gradients, gaps and curvatures.

Notation: X of n x d_in, Y of n x d_out, and

    f(W) = ‖X·Wᵀ - Y‖²/(2n),    ∇f(W) = (W - W*)·C,    C = XᵀX/n,    L = λ_max(C),    μ = λ_min(C).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Regression:
    """One problem per run.

    Shapes:
        X: (seeds, n, d_in); Y: (seeds, n, d_out)
    """

    X: np.ndarray
    Y: np.ndarray

    @cached_property
    def C(self) -> np.ndarray:
        """XᵀX/n: (seeds, d_in, d_in)"""
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
        """L: (seeds,)"""
        return self.curvatures[:, -1]

    @property
    def pl(self) -> np.ndarray:
        """μ, which is also the constant of the Polyak-Łojasiewicz inequality: (seeds,)"""
        return self.curvatures[:, 0]

    def gradient(self, W: np.ndarray) -> np.ndarray:
        """Return ∇f(W): (seeds, d_out, d_in)"""
        return (W - self.best) @ self.C

    def gap(self, W: np.ndarray) -> np.ndarray:
        """Return f(W) - f*, without the digits that subtracting f* would cost: (seeds,)"""
        off = W - self.best
        return 0.5 * np.sum(off @ self.C * off, axis=(1, 2))


def draw_regression(*, seeds: int, samples: int, d_in: int, d_out: int, noise: float) -> Regression:
    """Return problems with X of N(0, 1) and targets X·Wᵀ + noise·N(0, 1), with entries of W from N(0, 1)."""
    draw = np.random.RandomState(0)
    X = draw.standard_normal((seeds, samples, d_in))
    W = draw.standard_normal((seeds, d_out, d_in))
    return Regression(X, X @ W.transpose(0, 2, 1) + noise * draw.standard_normal((seeds, samples, d_out)))
