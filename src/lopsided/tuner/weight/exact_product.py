"""B·A without rounding errors: a product of matrices whose bits do not depend on the order of its sums.

Notation: B is (d_out, K), A is (K, d_in), and K is small.

A sum in floating point depends on its order, and the order depends on the number of threads, the device and the
library. Here it does not, because no partial sum is ever rounded:

    1. balance    column k of B and row k of A are brought to one size by powers of two, which leave B·A as it is
    2. round      each row of B and each column of A is rounded to `bits` bits below its own largest entry
    3. multiply   every product of two such numbers is a multiple of one unit per entry of B·A, and K of them stay below
                  2⁵³ units, so float64 holds every partial sum exactly

Step 2 is the only one that loses anything, and it works entry by entry, so it has no order either. A float32 factor has
24 bits of its own: most entries pass through it unchanged.

Source: the splitting of Ozaki, Ogita, Oishi and Rump 2012, doi:10.1007/s11075-011-9478-1, with one piece per factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# The bits of a float64's significand.
DOUBLE = 53


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How a product is made exact.

    Args:
        depth: how many inner indices one product may have at most.
        bits: how many bits each factor keeps below its largest entry.

    Raises:
        AssertionError: if a sum of `depth` products of two factors would not fit into float64.
    """

    depth: int
    bits: int

    def __post_init__(self) -> None:
        # A product takes 2·bits bits, and a sum of `depth` of them log2(depth) more.
        assert 2 * self.bits + self.depth.bit_length() - 1 <= DOUBLE, f"{self} does not fit into float64"


# Few inner indices leave the most bits to each factor; many need fewer products.
FEW, MANY = Precision(depth=32, bits=24), Precision(depth=128, bits=23)


class ExactProduct:
    """B·A of so few inner indices that it is exact once the factors are rounded.

    Args:
        pairs: (B, A) of each link, of shapes (d_out, r_t) and (r_t, d_in); K = Σ r_t.
        bits: what each factor keeps, see `Precision`.
        kept: whether to round the factors once and keep them in float64, or again for each tile.
    """

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], bits: int, kept: bool) -> None:
        self._pairs, everything = pairs, slice(None)
        # Balance: c_k = 2^((e(B_k) - e(A_k)) / 2) divides column k of B and multiplies row k of A. Without it, a large
        # row of A next to a large column of B, of two links, would take the last bits of the small ones.
        exponents_B = torch.cat([_exponent(B, 0) for B, _ in pairs])
        exponents_A = torch.cat([_exponent(A, 1) for _, A in pairs])
        shift = (exponents_B - exponents_A) >> 1
        self._shrink_B, self._stretch_A = _power_of_two(-shift), _power_of_two(shift)[:, None]
        # The unit of each row of B and of each column of A belongs to the whole row or column, so every tile rounds
        # alike.
        self._anchors_B = _anchors(self._balanced_B(everything), 1, bits)
        self._anchors_A = _anchors(self._balanced_A(everything), 0, bits)
        self._kept = (self._rounded_B(everything), self._rounded_A(everything)) if kept else None

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Return a tile of B·A in float64: exact, whatever the order of the sums in it."""
        if self._kept is not None:
            return self._kept[0][rows] @ self._kept[1][:, columns]
        return self._rounded_B(rows) @ self._rounded_A(columns)

    def _balanced_B(self, rows: slice) -> Tensor:
        return torch.cat([B[rows] for B, _ in self._pairs], dim=1).double().mul_(self._shrink_B)

    def _balanced_A(self, columns: slice) -> Tensor:
        return torch.cat([A[:, columns] for _, A in self._pairs]).double().mul_(self._stretch_A)

    def _rounded_B(self, rows: slice) -> Tensor:
        anchors = self._anchors_B[rows]
        return self._balanced_B(rows).add_(anchors).sub_(anchors)

    def _rounded_A(self, columns: slice) -> Tensor:
        anchors = self._anchors_A[:, columns]
        return self._balanced_A(columns).add_(anchors).sub_(anchors)


def in_single_precision(B: Tensor, A: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return pairs (B_i, A_i) of float32 or narrower with Σ B_i·A_i = B·A, which `ExactProduct` takes without loss.

    float64 factors come as (high, high), (low, high) and (high, low): high is what fits below the largest entry of a
    row of B or a column of A, and low is the rest of it. The sum is B·A to about 2⁻⁴⁴ of the largest entries.

    Shapes:
        B: (d_out, r), A: (r, d_in).
    """
    if torch.float64 not in (B.dtype, A.dtype):
        return [(B, A)]
    # Balanced first, so that the product's own balance, of the high parts, finds nothing left to do.
    shift = (_exponent(B, 0) - _exponent(A, 1)) >> 1
    (B, b), (A, a) = (
        _high_and_low(B.double() * _power_of_two(-shift), 1),
        _high_and_low(A.double() * _power_of_two(shift)[:, None], 0),
    )
    return [(B, A), (b, A), (B, a)]


def _high_and_low(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    # One bit less than a product keeps: rounding up can bring the largest entry to the next power of two.
    anchors = _anchors(x, dim, MANY.bits - 1)
    high = (x + anchors) - anchors
    return high.float(), (x - high).float()


def _exponent(x: Tensor, dim: int) -> Tensor:
    """Return the e of 2ᵉ⁻¹ <= max|x| < 2ᵉ along a dimension."""
    # NaN and Inf have no exponent of their own, and what they reach is not finite whatever its unit.
    return torch.frexp(x.abs().amax(dim).nan_to_num(nan=1.0, posinf=1.0)).exponent


def _power_of_two(exponent: Tensor) -> Tensor:
    """Return 2ᵉ in float64, from its bits: exp2 and ldexp promise no exact powers."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def _anchors(x: Tensor, dim: int, bits: int) -> Tensor:
    """Return what rounds x, added and taken away, to so many bits below the power of two above max|x|.

    An anchor is 1.5·2⁵² units, along a dimension of x. The sum with it has no bits below the unit, so the addition
    rounds x to a multiple of it, and the difference is exact.
    """
    return _power_of_two(_exponent(x, dim) - bits + DOUBLE - 1).mul_(1.5).unsqueeze(dim)
