"""Sketches that are matrices: random ones, and singular vectors of W0. `sketch.py` holds the notation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.method.sketch import Matrix, Sketch, check_choice, generator


@dataclass(frozen=True)
class Orthonormal(Sketch):
    """r orthonormal rows, uniform on the Stiefel manifold: S·Sᵀ = I.

    The QR factor of a Gaussian matrix with the signs of R's diagonal made positive. Plain gradient descent
    at step 1/L is stable with it, where an unnormalised Gaussian sketch diverges.

    Source:
        Zhu et al. 2024, arXiv:2402.16842 ("rand"); λ_min = r/d: Malinovsky et al. 2024, arXiv:2410.08305.

    Example:
        >>> S = Orthonormal().sample(2, 5, seed=0, link=0)
        >>> bool(np.allclose(S @ S.T, np.eye(2), atol=1e-6))
        True
    """

    stored: ClassVar[bool] = False

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None) -> Matrix:
        """Return Qᵀ of the QR factors of a (d, r) Gaussian matrix."""
        X = generator(seed, link).standard_normal((d, r))
        if 4 * r <= d:
            # R is the Cholesky factor of XᵀX. X has a condition number below 10 here, so that Q is orthonormal to the
            # last bits, and loading an adapter, which draws every sketch again, takes a tenth less time.
            return np.linalg.inv(np.linalg.cholesky(X.T @ X)) @ X.T
        Q, R = np.linalg.qr(X)
        return (Q * np.where(np.diag(R) < 0, -1.0, 1.0)).T

    def lambda_min(self, r: int, d: int) -> float:
        """Return r/d."""
        return r / d


@dataclass(frozen=True)
class Gaussian(Sketch):
    """Independent N(0, std²) entries.

    Args:
        std: standard deviation of an entry; None takes 1/√d, so that E[S·Sᵀ] = I. RAC-LoRA's digits
            experiment takes 1.0, with E[S·Sᵀ] = d·I.

    Source:
        Malinovsky et al. 2024, arXiv:2410.08305; Kratsios et al. 2025, arXiv:2506.14530.
    """

    stored: ClassVar[bool] = False
    std: float | None = None

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None) -> Matrix:
        """Draw r·d normal entries."""
        std = d**-0.5 if self.std is None else self.std
        return generator(seed, link).standard_normal((r, d)) * std

    def lambda_min(self, r: int, d: int) -> float:
        """Return r/d."""
        return r / d


@dataclass(frozen=True)
class UnitRows(Sketch):
    """Independent rows, uniform on the unit sphere: Gaussian rows divided by their norms. E[S·Sᵀ] = I.

    Args:
        shared_seed: draw from this seed in place of each layer's, so that all layers of one shape have one S per link,
            in every run.

    Source:
        Released code of Beyond LoRA (Cadenhead et al. 2026, arXiv:2606.13767), for random-cLA. λ_min = r/d because
        the rows span the same space as Gaussian ones.

    Example:
        >>> S = UnitRows().sample(2, 5, seed=0, link=0)
        >>> bool(np.allclose(np.linalg.norm(S, axis=1), 1.0))
        True
    """

    stored: ClassVar[bool] = False
    shared_seed: int | None = None

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None) -> Matrix:
        """Draw r normal rows of length 1."""
        S: Matrix = generator(seed if self.shared_seed is None else self.shared_seed, link).standard_normal((r, d))
        norms: Matrix = np.linalg.norm(S, axis=1, keepdims=True)
        return S / norms

    def lambda_min(self, r: int, d: int) -> float:
        """Return r/d, or 0 for known rows, unless they span everything."""
        return r / d if self.shared_seed is None or r == d else 0.0


@dataclass(frozen=True)
class KaimingUniform(Sketch):
    """Independent entries, uniform on ±√(6 / ((1 + a²)·d)).

    Args:
        a: the negative slope of Kaiming's rule. √5, PEFT's and LoRA's own, gives ±1/√d and
            E[S·Sᵀ] = I/3.

    Source:
        LoRA: Hu et al. 2021, arXiv:2106.09685; "he" in Zhu et al. 2024, arXiv:2402.16842. λ_min = r/d
        because permuting and flipping the signs of columns leaves the distribution as it is.
    """

    stored: ClassVar[bool] = False
    a: float = 5**0.5

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None) -> Matrix:
        """Draw r·d uniform entries."""
        bound = (6.0 / ((1.0 + self.a**2) * d)) ** 0.5
        return generator(seed, link).uniform(-bound, bound, (r, d))

    def lambda_min(self, r: int, d: int) -> float:
        """Return r/d."""
        return r / d


@dataclass(frozen=True)
class Singular(Sketch):
    """Singular vectors of W0: right ones when B is trained, left ones when A is.

    Link k takes the k-th block of r vectors, from the largest singular values ("top") or the smallest
    ("last"), and starts again when all are used. S is stored in the adapter's file, since the base
    that the adapter is loaded on may be rounded or quantized.

    Source:
        Zhu et al. 2024, arXiv:2402.16842 (V for A, U for B; top or last r).
    """

    random: ClassVar[bool] = False
    reads_weight: ClassVar[bool] = True
    which: Literal["top", "last"] = "top"

    def __post_init__(self) -> None:
        check_choice("Singular.which", self.which, ("top", "last"))

    def draw(self, r: int, d: int, *, seed: int, link: int, weight: Matrix | None) -> Matrix:
        """Return the r singular vectors of the link.

        Raises:
            LopsidedError: without a weight of width d.
        """
        if weight is None or weight.shape[-1] != d:
            got = None if weight is None else weight.shape
            raise LopsidedError(f"Singular needs the layer's weight of width d={d}, got {got}; pass weight=W0")
        # Full matrices: r may exceed the rank of a layer with few outputs.
        vectors = np.linalg.svd(weight.astype(np.float64), full_matrices=True)[2]
        order = np.arange(d) if self.which == "top" else np.arange(d)[::-1]
        return vectors[np.take(order, np.arange(link * r, (link + 1) * r), mode="wrap")]

    def lambda_min(self, r: int, d: int) -> float:
        """Return 0, since the vectors are known, unless they are all of them."""
        return 1.0 if r == d else 0.0
