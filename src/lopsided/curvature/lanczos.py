"""The largest eigenvalue of a symmetric matrix of which only products with vectors are known.

Notation: H is (n, n), symmetric; after m steps Q is (n, m) with orthonormal columns that span
{q, H·q, …, H^(m−1)·q}, and T = Qᵀ·H·Q is tridiagonal, with α on its diagonal and β next to it. With T·s = θ·s the Ritz
vector v = Q·s has ‖H·v − θ·v‖ = β_m·|s_m|, and some eigenvalue of H lies within that distance of θ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.finite import all_finite


@dataclass(frozen=True, kw_only=True)
class Ritz:
    """An approximate eigenpair.

    Args:
        value, vector: θ, and v of norm 1.
        residual: ‖H·v − θ·v‖, from the recurrence.
        steps: products that were taken.
        converged: whether the residual is as small as was asked for, or the space was used up. If it is not, some
            eigenvalue lies within the residual of the value, and a larger one may be missing.
    """

    value: float
    vector: Tensor
    residual: float
    steps: int
    converged: bool


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], start: Tensor, *, steps: int = 30, tolerance: float = 1e-3
) -> Ritz:
    """Compute the largest eigenvalue, by sign and not by size, by Lanczos with full re-orthogonalization.

    Every new vector is made orthogonal to all earlier ones, twice; without that, rounding brings eigenvalues that have
    converged back as copies. It ends when the residual is at most tolerance·|θ|, when the space that the start reaches
    is used up (the pair is then exact), or after `steps` products.

    Args:
        product: q -> H·q; it may be rounded.
        start: any vector with a component along the eigenvector; a random one has it.
        steps: products at most; as many vectors of the start's size and dtype are kept.

    Shapes:
        start and the product's argument and result: (n,).

    Raises:
        LopsidedError: for a start of zero, no steps, or a product that is not finite.

    Source:
        Lanczos 1950; Golub and Van Loan, Matrix Computations, section 10.3.

    Example:
        >>> H = torch.diag(torch.tensor([-9.0, 1.0, 2.0, 4.0]))
        >>> round(largest_eigenvalue(lambda q: H @ q, torch.ones(4)).value, 5)
        4.0
    """
    if steps < 1:
        raise LopsidedError(f"expected at least 1 step of Lanczos, got {steps}; raise it")
    if not 0 < float(start.norm()) < float("inf"):
        raise LopsidedError(f"expected a start of positive, finite norm, got {float(start.norm())}; draw one")
    basis = [start / start.norm()]
    alphas: list[float] = []
    betas: list[float] = []
    while True:
        # Invariant: the basis is orthonormal, and holds one vector more than there are products behind it.
        new = product(basis[-1])
        if not all_finite(new):
            raise LopsidedError(f"expected finite products, got NaN or Inf in product {len(basis)}; check the loss")
        # α before the orthogonalization, which removes that component; β is the length of what is left.
        alphas.append(_dot(basis[-1], new))
        for _ in range(2):
            for q in basis:
                new = new - _dot(q, new) * q
        betas.append(float(new.double().norm()))
        # T is at most `steps` wide, so its eigenvalues cost nothing next to a product.
        values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))
        value, s = float(values[-1]), vectors[:, -1]
        residual = betas[-1] * abs(float(s[-1]))
        # Where the space is used up, what is left of the new vector is rounding: normalized, it would look like a
        # direction of its own.
        scale = max(map(abs, (*alphas, *betas[:-1])))
        used_up = len(basis) == len(start) or betas[-1] <= 100 * torch.finfo(start.dtype).eps * scale
        converged = used_up or residual <= tolerance * abs(value)
        if converged or len(basis) == steps:
            vector = torch.stack([q * float(share) for q, share in zip(basis, s, strict=True)]).sum(0)
            unit = vector / vector.norm()
            return Ritz(value=value, vector=unit, residual=residual, steps=len(basis), converged=converged)
        basis.append(new / betas[-1])


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.double(), b.double()))
