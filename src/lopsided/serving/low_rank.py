"""The low-rank update of one layer as two matrices: padded with zeros, or recompressed, with the error that this makes.

Notation: ΔW = B·A with A of (r, d_in) and B of (d_out, r), the scale in B. Nothing here forms ΔW, of d_out x d_in
numbers: a product of two tall matrices has the singular values of a small one. With B = Q_B·R_B and Aᵀ = Q_A·R_A,

    ΔW = Q_B·(R_B·R_Aᵀ)·Q_Aᵀ        and        ‖ΔW‖ = ‖R_B·R_Aᵀ‖,   Frobenius' norm
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """ΔW = B·A of one layer.

    Shapes:
        A: (r, d_in), float32. B: (d_out, r), float32.
    """

    A: Tensor
    B: Tensor

    @property
    def rank(self) -> int:
        """The number r of rows of A; ΔW itself may have a lower rank."""
        return len(self.A)

    def padded(self, rank: int) -> LowRankUpdate:
        """Return the same ΔW with its factors padded by zeros to r = `rank`, which must not be below their own rank."""
        missing = rank - self.rank
        A = torch.nn.functional.pad(self.A, (0, 0, 0, missing))
        return LowRankUpdate(A.contiguous(), torch.nn.functional.pad(self.B, (0, missing)).contiguous())

    def truncated(self, rank: int) -> LowRankUpdate:
        """Return the nearest ΔW of at most this rank, in Frobenius' norm: its largest singular values.

        Each factor takes the square root of the singular values, so that both are of one size and round alike.

        Source:
            Eckart and Young 1936, Psychometrika 1, 211.
        """
        # In float64: the factors of a long chain nearly cancel, and what is left is a difference of large numbers.
        Q_B, R_B = torch.linalg.qr(self.B.double())
        Q_A, R_A = torch.linalg.qr(self.A.double().T)
        U, values, Vh = torch.linalg.svd(R_B @ R_A.T)
        # A layer narrower than the rank has fewer singular values.
        kept = min(rank, len(values))
        roots = values[:kept].sqrt()
        B, A = Q_B @ (U[:, :kept] * roots), (roots[:, None] * Vh[:kept]) @ Q_A.T
        return LowRankUpdate(A.float(), B.float()).padded(rank)

    def norm(self) -> float:
        """Return ‖ΔW‖ in Frobenius' norm."""
        R_B = torch.linalg.qr(self.B.double(), mode="r").R
        R_A = torch.linalg.qr(self.A.double().T, mode="r").R
        return float((R_B @ R_A.T).norm())

    def distance(self, other: LowRankUpdate) -> float:
        """Return ‖ΔW − ΔW'‖ in Frobenius' norm: of [B, −B']·[A; A'], which is low-rank, too.

        The error of rounding the factors to float32 is included.
        """
        return LowRankUpdate(torch.cat([self.A, other.A]), torch.cat([self.B, -other.B], dim=1)).norm()


def relative(distances: Iterable[float], norms: Iterable[float]) -> float:
    """Return √Σ‖ΔW − ΔW'‖² / √Σ‖ΔW‖² over some layers; 0 where nothing was changed, even if ΔW is 0.

    Example:
        >>> relative([3.0, 4.0], [6.0, 8.0]), relative([0.0], [0.0])
        (0.5, 0.0)
    """
    distance = math.hypot(*distances)
    return distance / math.hypot(*norms) if distance else 0.0
