"""The leading singular vectors of W0 + ΔW, without decomposing it.

Notation: W0 = U·S·Vᵀ is known, m singular values σ from the largest; ΔW = L·R of rank K. In the coordinates of U and V,
with orthonormal bases of what L and Rᵀ have outside their spans added,

    W  =  [U Q_L]·( diag(S, 0) + P·Qᵀ )·[V Q_R]ᵀ,     P = [U Q_L]ᵀL,  Q = [V Q_R]ᵀRᵀ,

so a product costs O(m·K). An eigenvector of WᵀW with eigenvalue θ² lies in (S² − θ²)⁻¹ times the low-rank part's range,
so residuals that are divided by S² − θ² and added to the basis (Davidson) end the search in a few rounds.

Why nothing is missed: the start holds the first k + K of V's vectors and the range of Rᵀ. A unit vector v orthogonal to
them has ‖Wv‖ = ‖W0·v‖ ≤ σ_{k+K+1}(W0) ≤ σ_{k+1}(W), by Weyl.

Source: Davidson 1975, doi:10.1016/0021-9991(75)90065-0; for singular values Wu, Romero and Stathopoulos 2017,
arXiv:1607.01404.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lopsided.diagnose.base_svd import BaseSVD

# The largest angle, in radians, that a vector may be away from the true one, by its residual and gap.
ANGLE = 1e-5
# Singular values that are nearer to each other, relative to W0's largest or to themselves, don't tell their vectors
# apart.
TIE = 1e-6
# The largest residual on the float32 weight itself, relative to the largest singular value.
RESIDUAL = 1e-5
ROUNDS = 40
# Rows that are multiplied in float64 at once, few enough to stay in the processor's cache.
CHUNK = 256


@dataclass(frozen=True, eq=False)
class Reduced:
    """W in the coordinates above, in float64: diag(values) of (p, q), zero beyond m, plus P·Qᵀ.

    Shapes:
        values: (m,); P: (p, K); Q: (q, K); Q_left: (d_out, p - m); Q_right: (d_in, q - m).
    """

    values: Tensor
    P: Tensor
    Q: Tensor
    Q_left: Tensor
    Q_right: Tensor

    def forward(self, X: Tensor) -> Tensor:
        """Return W·X: (q, n) -> (p, n)"""
        return self._product(X, self.P, self.Q)

    def back(self, Y: Tensor) -> Tensor:
        """Return Wᵀ·Y: (p, n) -> (q, n)"""
        return self._product(Y, self.Q, self.P)

    def _product(self, X: Tensor, P: Tensor, Q: Tensor) -> Tensor:
        out, m = P @ (Q.T @ X), len(self.values)
        out[:m] += self.values[:, None] * X[:m]
        return out


def reduce(base: BaseSVD, L: Tensor, R: Tensor) -> Reduced:
    """Return W0 + L·R in the coordinates of W0's singular vectors."""
    P, Q_left = _coordinates(base.left, L)
    Q, Q_right = _coordinates(base.right, R.T)
    return Reduced(base.values.double(), P, Q, Q_left, Q_right)


def _coordinates(vectors: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """X on an orthonormal basis that begins with `vectors`, and the rest of that basis.

    Shapes:
        vectors: (d, m); X: (d, K). Returns (m + extra, K) and (d, extra), with extra at most K.
    """
    d, m = vectors.shape
    inside = (vectors.T @ X.float()).double()
    # Rounded to float32, U·Uᵀ is not quite a projection: what it leaves of a large ΔW would hide small gaps.
    rest = X.new_zeros(m, X.shape[1])
    for rows in torch.arange(d).split(CHUNK):
        U = vectors[rows[0] : rows[-1] + 1].double()
        rest += U.T @ (X[rows] - U @ inside)
    inside = inside + rest
    # A square W0: its vectors span the whole space, and X has nothing outside.
    if d == m:
        return inside, X.new_zeros(d, 0)
    outside = _scaled(X - vectors.double() @ inside, X.norm(dim=0))
    more = _orthonormal(outside, drop=1e-6)
    return torch.cat([inside, more.T @ X]), more


def leading(base: BaseSVD, weight: Tensor, L: Tensor, R: Tensor, k: int) -> Tensor | None:
    """Find the first k left singular vectors of W0 + L·R, in the coordinates of U (and Q_L).

    Args:
        base: of `weight`.
        L, R: (d_out, K), (K, d_in), float64.

    Returns:
        (m or more, k), float64; the first m rows are ⟨u_i⁰, u_j⟩. None where float32 weights don't tell the vectors
        apart, where K is too large for the search to be faster, or where the residual on the weight itself is too
        large; the caller then decomposes W0 + L·R.
    """
    m, K = len(base.values), L.shape[1]
    # The basis starts with k + 3K vectors and grows: beyond half of the space a decomposition is faster.
    if k + 3 * K >= m // 2:
        return None
    reduced = reduce(base, L, R)
    triplets = _search(reduced, k, K)
    if triplets is None:
        return None
    left, values, right = triplets
    # The search knows W only by the kept decomposition of W0; this is the check against the weight.
    return left if _holds(reduced, base, weight, (L, R), left, values, right) else None


def _search(W: Reduced, k: int, K: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Davidson's method on WᵀW, with a basis that only grows: left vectors, values and right vectors, or None.

    Shapes:
        (p, k), (k,), (q, k)
    """
    q, m = len(W.Q), len(W.values)
    # The start, from which nothing is missed: the first vectors of V, the range of Rᵀ, and its images under Wᵀ.
    first = torch.eye(q, min(k + K + 1, m), dtype=torch.float64)
    weighted = W.back(W.P) if W.P.any() else W.P.new_zeros(q, 0)
    new = _orthonormal(torch.cat([first, _scaled(W.Q), _scaled(weighted)], dim=1))
    basis = images = W.Q.new_zeros(q, 0)
    # The preconditioner: WᵀW without its low-rank part.
    diagonal = torch.zeros(q, dtype=torch.float64)
    diagonal[:m] = W.values.square()
    for _ in range(ROUNDS):
        # Invariant: the basis is orthonormal, and `images` is WᵀW times it; a round multiplies the new vectors alone.
        basis = torch.cat([basis, new], dim=1)
        images = torch.cat([images, W.back(W.forward(new))], dim=1)
        squares, turns = torch.linalg.eigh(basis.T @ images)
        # One more than asked for: the gap below the k-th decides how well its vector is known.
        squares, turns = squares[-k - 1 :].flip(0), turns[:, -k - 1 :].flip(1)
        right = basis @ turns
        residuals = images @ turns - right * squares
        wanted = _unsettled(residuals, squares, k, float(W.values[0]))
        if wanted is None:
            return None
        if not wanted:
            right, values = right[:, :k], squares[:k].sqrt()
            return W.forward(right) / values, values, right
        # Davidson's step: residuals over S² − θ², kept away from zero where θ² is near one of the σ².
        shifted = diagonal[:, None] - squares[wanted]
        least = 1e-8 * squares[0]
        shifted = torch.where(shifted.abs() < least, least, shifted)
        new = _orthonormal(_scaled(residuals[:, wanted] / shifted), basis)
        if new.shape[1] == 0 or basis.shape[1] + new.shape[1] > m:
            return None
    return None


def _unsettled(residuals: Tensor, squares: Tensor, k: int, largest: float) -> list[int] | None:
    """The numbers of the vectors among k whose angle to a true one may exceed `ANGLE`; None if two of them are tied.

    W0 is known within float32's rounding of its `largest` singular value, and the coordinates within a relative one.
    The angle is at most the residual over the distance to the other eigenvalues of WᵀW (Davis and Kahan).
    """
    values = squares.clamp(min=0.0).sqrt()
    if bool((values[:-1] - values[1:] <= TIE * values[:-1].clamp(min=largest)).any()):
        return None
    gaps = squares[:-1] - squares[1:]
    # Each eigenvalue's distance to its nearer neighbour; the first one has none above it.
    above = torch.cat([gaps.new_full((1,), torch.inf), gaps[:-1]])
    angles = residuals.norm(dim=0)[:k] / torch.minimum(above, gaps)
    # Not `>`: an angle that is NaN is unsettled as well.
    return [j for j in range(k) if not angles[j] <= ANGLE]


def _holds(
    reduced: Reduced,
    base: BaseSVD,
    weight: Tensor,
    delta: tuple[Tensor, Tensor],
    left: Tensor,
    values: Tensor,
    right: Tensor,
) -> bool:
    """Whether the triplets fit the weight itself: W·v = σ·u and Wᵀ·u = σ·v within float32's rounding."""
    m, (L, R) = len(reduced.values), delta
    u = base.left @ left[:m].float() + (reduced.Q_left @ left[m:]).float()
    v = base.right @ right[:m].float() + (reduced.Q_right @ right[m:]).float()
    scaled = values.float()
    forward = weight @ v + (L @ (R @ v.double())).float() - u * scaled
    back = weight.T @ u + (R.T @ (L.T @ u.double())).float() - v * scaled
    return all(float(error.norm(dim=0).max()) <= RESIDUAL * float(values[0]) for error in (forward, back))


def _scaled(X: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Columns divided by their norms, or by `sizes`; those of zeros stay."""
    return X / (X.norm(dim=0) if sizes is None else sizes).clamp_min(torch.finfo(X.dtype).tiny)


def _orthonormal(X: Tensor, against: Tensor | None = None, drop: float = 1e-6) -> Tensor:
    """An orthonormal basis of X's columns, orthogonal to `against`; directions that are almost in its span are dropped.

    By eigenvectors of XᵀX, twice: one pass leaves an error of the rounding over `drop`².
    """
    for _ in range(2):
        if against is not None:
            X = X - against @ (against.T @ X)
        squares, turns = torch.linalg.eigh(X.T @ X)
        kept = squares > drop**2
        X = X @ (turns[:, kept] / squares[kept].sqrt())
    return X
