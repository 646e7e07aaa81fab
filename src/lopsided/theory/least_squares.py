"""Which factor to train, in least squares: Theorem 4.3 of the asymmetry paper.

Notation: inputs x with Σ = E[x·xᵀ] of (d_in, d_in), and an update Δ = W_target - W0 of (d_out, d_in) to be learnt. An
adapter s·B·A leaves the loss E‖(Δ - B·A)·x‖² = Tr[(Δ - BA)·Σ·(Δ - BA)ᵀ].

    freeze A = Q, Q·Qᵀ = I   B* = ΔΣQᵀ(QΣQᵀ)⁻¹    loss = Tr[ΔΣΔᵀ] - Tr[QΣΔᵀΔΣQᵀ(QΣQᵀ)⁻¹]
    freeze B = U, Uᵀ·U = I   A* = UᵀΔ              loss = Tr[ΔΣΔᵀ] - Tr[UᵀΔΣΔᵀU]

For random Q and U, training B is at least as good as training A as d/r grows, in the paper's settings; it is not in all
settings: see `tune_b_condition`.

Source: Zhu et al. 2024, arXiv:2402.16842, Theorem 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lopsided.errors import LopsidedError


@dataclass(frozen=True, eq=False)
class FactorFit:
    """The best trained factor next to a frozen one, and the loss that it leaves.

    Args:
        factor: B of (d_out, r), or A of (r, d_in).
        loss: in squared units of the output.
    """

    factor: np.ndarray
    loss: float


def tune_b(delta: np.ndarray, sigma: np.ndarray, Q: np.ndarray) -> FactorFit:
    """Return the best B next to A = Q.

    Shapes:
        delta: (d_out, d_in); sigma: (d_in, d_in); Q: (r, d_in), of full rank; its rows need not be orthonormal.

    Units:
        The loss has squared units of the outputs.

    Source:
        Zhu et al. 2024, Theorem 4.3; the closed form is derived from it here.

    Raises:
        LopsidedError: for shapes that do not fit, or Q·Σ·Qᵀ without an inverse.
    """
    _check(delta, sigma)
    if Q.ndim != 2 or Q.shape[1] != delta.shape[1]:
        raise LopsidedError(f"expected Q of shape (r, d_in={delta.shape[1]}), got {Q.shape}; correct it")
    inner = Q @ sigma @ Q.T
    if np.linalg.matrix_rank(inner) < len(Q):
        raise LopsidedError(
            f"Q·Σ·Qᵀ of rank {np.linalg.matrix_rank(inner)} has no inverse at r={len(Q)}; lower r to Σ's rank or draw "
            "another Q"
        )
    B = np.linalg.solve(inner, Q @ sigma @ delta.T).T
    return FactorFit(B, _trace(delta, sigma, delta) - float(np.sum(B * (delta @ sigma @ Q.T))))


def tune_a(delta: np.ndarray, sigma: np.ndarray, U: np.ndarray) -> FactorFit:
    """Return the best A next to B = U.

    Shapes:
        delta: (d_out, d_in); sigma: (d_in, d_in); U: (d_out, r), with orthonormal columns.

    Units:
        The loss has squared units of the outputs.

    Source:
        Zhu et al. 2024, Theorem 4.3; the closed form is derived from it here.

    Raises:
        LopsidedError: for shapes that do not fit, or columns that are not orthonormal.
    """
    _check(delta, sigma)
    if U.ndim != 2 or U.shape[0] != delta.shape[0]:
        raise LopsidedError(f"expected U of shape (d_out={delta.shape[0]}, r), got {U.shape}; correct it")
    if not np.allclose(U.T @ U, np.eye(U.shape[1]), atol=1e-6):
        raise LopsidedError("expected U with orthonormal columns, got others; take its QR factor")
    A = U.T @ delta
    return FactorFit(A, _trace(delta, sigma, delta) - _trace(A, sigma, A))


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Whether training B beats training A as d/r grows: d·Tr[Σ²ΔᵀΔ] >= Tr[Σ]·Tr[ΣΔᵀΔ].

    Args:
        tune_b: whether it holds.
        ratio: left side over right side: B's expected reduction over A's, at equal r much below d_in = d_out.
    """

    tune_b: bool
    ratio: float


def tune_b_condition(sigma: np.ndarray, delta: np.ndarray) -> Condition:
    """Return whether the inputs' variance lies in the directions that the update needs.

    With Q and U random, of the same r, much smaller than d = d_in = d_out, training B reduces the loss by
    r·Tr[Σ²ΔᵀΔ]/Tr[Σ] in expectation, training A by (r/d)·Tr[ΣΔᵀΔ]. An update in the inputs' low-variance directions
    fails the condition, and there training A wins. For d_out ≠ d_in, A's share is r/d_out, so d is d_out.

    Shapes:
        sigma: (d_in, d_in); delta: (d_out, d_in).

    Units:
        Both sides have those of Tr[Σ]·Tr[ΣΔᵀΔ]; their ratio has none.

    Source:
        Derived for this library from Theorem 4.3; where the paper's statement holds, so does this.

    Example:
        >>> tune_b_condition(np.eye(4), np.eye(4)).ratio
        1.0
    """
    _check(delta, sigma)
    energy = delta.T @ delta
    left = len(delta) * float(np.sum((sigma @ sigma) * energy))
    right = float(np.trace(sigma)) * float(np.sum(sigma * energy))
    if right <= 0:
        raise LopsidedError("Σ and Δ leave nothing to learn: Tr[ΣΔᵀΔ] = 0; expected an update that some input sees")
    # Equal sides, as Σ = I has, are equal up to rounding.
    return Condition(tune_b=left >= right * (1 - 1e-12), ratio=left / right)


def expected_gap(delta: np.ndarray, input_basis: np.ndarray, variance: float) -> float:
    """Return the loss of tuning A minus that of tuning B, for r equal variances: (1 - r/d)·σ²·Tr[U_X·U_Xᵀ·Δᵀ·Δ].

    Here Σ = σ²·U_X·U_Xᵀ has the adapter's own rank r, so tuning B leaves nothing, whatever Q.

    Args:
        variance: σ², of an input along each direction of its space.

    Shapes:
        delta: (d_out, d_in); input_basis: U_X of (d_in, r), with orthonormal columns; d is d_out.

    Units:
        Squared units of the outputs, as a squared error.

    Source:
        Zhu et al. 2024, after Theorem 4.3.
    """
    d, r = delta.shape[0], input_basis.shape[1]
    share: float = 1 - r / d
    return share * variance * float(np.sum((delta @ input_basis) ** 2))


def _check(delta: np.ndarray, sigma: np.ndarray) -> None:
    if delta.ndim != 2 or sigma.shape != (delta.shape[1], delta.shape[1]):
        raise LopsidedError(
            f"expected Δ of (d_out, d_in) and Σ of (d_in, d_in), got {delta.shape} and {sigma.shape}; correct them"
        )
    if not (np.isfinite(delta).all() and np.isfinite(sigma).all()):
        raise LopsidedError("expected finite Δ and Σ, got NaN or Inf; leave out the rows or layers that they come from")
    if not np.allclose(sigma, sigma.T):
        raise LopsidedError("expected Σ = E[x·xᵀ], which is symmetric, got another matrix; correct it")


def _trace(left: np.ndarray, sigma: np.ndarray, right: np.ndarray) -> float:
    """Tr[left·Σ·rightᵀ]"""
    return float(np.sum((left @ sigma) * right))
