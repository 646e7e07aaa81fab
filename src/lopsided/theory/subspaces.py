"""How alike two factors are, independently of the coordinates that each is written in.

Notation: X and Y have d rows; Q_X is an orthonormal basis of the columns of X. Two factors are as similar as

    ‖Q_Xᵀ·Q_Y‖_F² / min(rank X, rank Y),

the mean squared cosine of the principal angles: 1 for equal column spaces, 0 for orthogonal ones. Uniformly random
spaces of r and q dimensions have max(r, q)/d on average.

Source: Zhu et al. 2024, arXiv:2402.16842, Figure 1.
"""

from __future__ import annotations

import numpy as np

from lopsided.errors import LopsidedError


def basis(X: np.ndarray) -> np.ndarray:
    """Return an orthonormal basis of the columns: (d, r) -> (d, rank)

    Units:
        None, whatever the units of X.

    Source:
        The left singular vectors whose singular values exceed the rounding error of float32.

    Raises:
        LopsidedError: if X has NaN or Inf.

    Example:
        >>> basis(np.array([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])).shape
        (3, 1)
    """
    X = np.asarray(X, dtype=np.float64)
    if not np.isfinite(X).all():
        raise LopsidedError(f"expected a finite factor, got NaN or Inf in one of shape {X.shape}; leave it out")
    vectors, sizes, _ = np.linalg.svd(X, full_matrices=False)
    return vectors[:, sizes > sizes.max(initial=0.0) * max(X.shape) * np.finfo(np.float32).eps]


def similarity(Q: np.ndarray, R: np.ndarray) -> float:
    """Return ‖QᵀR‖_F² / min(rank) of two orthonormal bases: (d, q), (d, r) -> between 0 and 1

    Units:
        None: a mean squared cosine.

    Source:
        Zhu et al. 2024, arXiv:2402.16842, Figure 1.

    Example:
        >>> similarity(np.eye(4)[:, :2], np.eye(4)[:, 1:3])
        0.5
    """
    return float(np.sum((Q.T @ R) ** 2) / min(Q.shape[1], R.shape[1]))
