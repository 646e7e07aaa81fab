"""What training one side of an adapter can gain, in a local model of the loss.

Notation: a layer y = W·x with W of (d_out, d_in), and a loss that is a mean over n predictions, in nats. Its mean
gradient is G of (d_out, d_in). Σ = E[x·xᵀ] is over tokens; Γ = (1/n)·Σ_t g_t·g_tᵀ sums over all tokens, with g_t the
gradient of one prediction's loss by y_t, so that Γ ⊗ Σ is the Fisher information of the mean loss, and counts the
tokens per prediction. With the damped Σ̃ = Σ + λ_Σ·I and Γ̃ = Γ + λ_Γ·I, an update changes the loss by about

    <G, ΔW> + ½·Tr[Γ̃·ΔW·Σ̃·ΔWᵀ]

For Cholesky factors Σ̃ = L_Σ·L_Σᵀ, Γ̃ = L_Γ·L_Γᵀ and the whitened M = L_Γ⁻¹·G·L_Σ⁻ᵀ, the most that it can fall by is

    all of W          ½·‖M‖²
    train B, A = Q    ½·‖M·V‖² = ½·Tr[Q·Gᵀ·Γ̃⁻¹·G·Qᵀ·(Q·Σ̃·Qᵀ)⁻¹],  V an orthonormal basis of L_Σᵀ·Qᵀ
    train A, B = U    ½·‖Vᵀ·M‖² = ½·Tr[Σ̃⁻¹·Gᵀ·U·(Uᵀ·Γ̃·U)⁻¹·Uᵀ·G],  V an orthonormal basis of L_Γᵀ·U
    both, rank r      ½·Σ_{i<=r} σ_i(M)²

The last one is the best update of rank r that there is: an upper bound on what training both factors reaches.

G comes from few rows, and a fit of many numbers to few rows gains on those rows alone. So each gain is given twice: on
the rows that G comes from, and as the mean of products of different batches' gradients, which is an unbiased estimate
of the gain for the gradient of all rows, and may be negative.

Source: the Kronecker factors: Martens and Grosse 2015, arXiv:1503.05671. The gains of one side generalize Theorem 4.3
of Zhu et al. 2024, arXiv:2402.16842, which is the case Γ = I; derived for this library.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from lopsided.errors import LopsidedError
from lopsided.theory.checks import check_not_negative


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments:
    """The moments and gradients from which a layer's gains follow.

    Args:
        sigma: Σ.
        gamma: Γ.
        gradients: the mean gradient of each batch, with the sign and the scale of the loss's gradient.
        weights: each batch's share of the predictions; None for equal shares.

    Shapes:
        sigma: (d_in, d_in); gamma: (d_out, d_out); gradients: (batches, d_out, d_in); weights: (batches,).

    Raises:
        LopsidedError: for shapes that do not fit, fewer than two batches, or shares that are not positive.
    """

    sigma: np.ndarray
    gamma: np.ndarray
    gradients: np.ndarray
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        d_out, d_in = len(self.gamma), len(self.sigma)
        # The first axes of Γ and Σ say the widths, and everything else has to agree with them.
        if (
            self.sigma.shape != (d_in, d_in)
            or self.gamma.shape != (d_out, d_out)
            or self.gradients.shape[1:] != (d_out, d_in)
        ):
            raise LopsidedError(
                "expected Σ of (d_in, d_in), Γ of (d_out, d_out) and gradients of (batches, d_out, d_in), got "
                f"{self.sigma.shape}, {self.gamma.shape} and {self.gradients.shape}; correct them"
            )
        if not all(np.isfinite(moment).all() for moment in (self.sigma, self.gamma, self.gradients)):
            raise LopsidedError(
                "expected finite moments, got NaN or Inf in Σ, Γ or a gradient; pass a model with finite gradients"
            )
        if len(self.gradients) < 2:
            raise LopsidedError(
                f"expected gradients of at least 2 batches, to tell what they share from their noise, got "
                f"{len(self.gradients)}; pass more batches"
            )
        if self.weights is not None and (self.weights.shape != (len(self.gradients),) or self.weights.min() <= 0):
            raise LopsidedError(
                f"expected a positive share for each of {len(self.gradients)} batches, got {self.weights}; correct them"
            )

    @property
    def shares(self) -> np.ndarray:
        """The batches' shares, with a sum of 1."""
        weights = np.ones(len(self.gradients)) if self.weights is None else self.weights
        shares: np.ndarray = weights / weights.sum()
        return shares


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The reduction of the loss at the best value of the trained numbers, in the loss's units.

    Args:
        fitted: on the rows that the gradient comes from.
        expected: the unbiased estimate for all rows.
    """

    fitted: float
    expected: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Whitened:
    """A layer in the coordinates in which the local model is ½·‖ΔW + M‖².

    Args:
        parts: each batch's M times its share, so that they add up to M.
        shares: of the batches.
        root_sigma, root_gamma: L_Σ and L_Γ.

    Shapes:
        parts: (batches, d_out, d_in); shares: (batches,).
    """

    parts: np.ndarray
    shares: np.ndarray
    root_sigma: np.ndarray
    root_gamma: np.ndarray

    def gain(self) -> Gain:
        """Return the gain of training all of W."""
        return self._gain(self.parts)

    def gain_b(self, Q: np.ndarray) -> Gain:
        """Return the gain of training B next to A = Q.

        Shapes:
            Q: (r, d_in), of full rank; its rows need not be orthonormal.
        """
        if Q.ndim != 2 or Q.shape[1] != len(self.root_sigma):
            raise LopsidedError(f"expected Q of shape (r, d_in={len(self.root_sigma)}), got {Q.shape}; correct it")
        return self._gain(self.parts @ np.linalg.qr(self.root_sigma.T @ Q.T)[0])

    def gain_a(self, U: np.ndarray) -> Gain:
        """Return the gain of training A next to B = U.

        Shapes:
            U: (d_out, r), of full rank; its columns need not be orthonormal.
        """
        if U.ndim != 2 or U.shape[0] != len(self.root_gamma):
            raise LopsidedError(f"expected U of shape (d_out={len(self.root_gamma)}, r), got {U.shape}; correct it")
        return self._gain(np.linalg.qr(self.root_gamma.T @ U)[0].T @ self.parts)

    def bound_ab(self, r: int) -> Gain:
        """Return the gain of the best ΔW of rank r, which no training of both factors can exceed.

        The expected gain is the mean over batches: each one measures the best directions of all the others.
        """
        whole = self.parts.sum(0)
        fitted = 0.5 * float(_top(whole, r)[1].sum())
        gains = []
        for part, share in zip(self.parts, self.shares):
            others = (whole - part) / (1 - share)
            vectors, _ = _top(others, r)
            gains.append(0.5 * float(np.sum(_projected(part / share, vectors) * _projected(others, vectors))))
        return Gain(fitted=fitted, expected=float(self.shares @ gains))

    def _gain(self, parts: np.ndarray) -> Gain:
        """½·‖Σ parts‖², and the same from products of different batches alone."""
        # The products of a batch with itself are what makes the square of a noisy mean too large.
        whole, own = float(np.sum(parts.sum(0) ** 2)), float(np.sum(parts**2))
        return Gain(fitted=0.5 * whole, expected=0.5 * (whole - own) / (1 - float(self.shares @ self.shares)))


def whiten(moments: Moments, damping: float = 0.1) -> Whitened:
    """Return the local model of a layer.

    Args:
        damping: λ_Σ as a multiple of the mean of Σ's eigenvalues, and λ_Γ as the same multiple of Γ's. A larger
            one trusts less in directions in which the few rows hardly vary.

    Units:
        Gains in nats, or in the units of the loss whose gradients these are.

    Source:
        Kronecker factors: Martens and Grosse 2015, arXiv:1503.05671; the gains of one side are derived here.

    Raises:
        LopsidedError: if Σ̃ or Γ̃ is not positive definite.

    Example:
        >>> one = Moments(sigma=np.eye(2), gamma=np.eye(2), gradients=np.stack([np.eye(2), np.eye(2)]))
        >>> whiten(one, damping=0.0).gain_b(np.array([[1.0, 0.0]]))
        Gain(fitted=0.5, expected=0.5)
    """
    check_not_negative(damping=damping)
    shares = moments.shares
    root_sigma, root_gamma = _root(moments.sigma, damping, "Σ"), _root(moments.gamma, damping, "Γ")
    parts = []
    for gradient, share in zip(moments.gradients, shares):
        left = solve_triangular(root_gamma, share * np.asarray(gradient, dtype=np.float64), lower=True)
        parts.append(solve_triangular(root_sigma, left.T, lower=True).T)
    return Whitened(parts=np.stack(parts), shares=shares, root_sigma=root_sigma, root_gamma=root_gamma)


def _root(moment: np.ndarray, damping: float, name: str) -> np.ndarray:
    """The lower Cholesky factor of a damped moment."""
    moment = np.asarray(moment, dtype=np.float64)
    damped = moment + damping * float(np.trace(moment)) / len(moment) * np.eye(len(moment))
    try:
        root: np.ndarray = cholesky(damped, lower=True)
    except np.linalg.LinAlgError as error:
        raise LopsidedError(
            f"{name} with a damping of {damping:g} is not positive definite: some direction is not seen at all; raise "
            "damping, or pass more rows"
        ) from error
    return root


def _top(M: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """The r first singular vectors on M's shorter side, as (side, r), and the squares of their values."""
    short = M if M.shape[0] <= M.shape[1] else M.T
    values, vectors = np.linalg.eigh(short @ short.T)
    return vectors[:, ::-1][:, :r], np.clip(values[::-1][:r], 0, None)


def _projected(M: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """M's shorter side in the coordinates of `_top`."""
    coordinates: np.ndarray = vectors.T @ (M if M.shape[0] <= M.shape[1] else M.T)
    return coordinates
