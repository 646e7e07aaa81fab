"""The second moments of a layer's inputs, for sketches that read data.

Notation: x of (d,) is one input of the layer, such as one token's, and n such inputs were seen. The moments are not
centred: an adapter multiplies x itself, and has no bias to take a mean up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

# What a sketch asks for: nothing, the mean squares of the entries of x, or the whole matrix as well.
InputsRead = Literal["", "squares", "products"]


@dataclass(frozen=True, kw_only=True, eq=False)
class InputMoments:
    """The second moments of one layer's inputs.

    Args:
        rows: n.
        squares: the mean of x_j² over the n inputs: (d,), float64.
        products: the mean of x·xᵀ: (d, d), float64; None where no sketch asked for it, or where it is diagonal.
        diagonal: whether it is, with `squares` on the diagonal, as where each x is a one-hot token.
    """

    rows: int
    squares: npt.NDArray[Any]
    products: npt.NDArray[Any] | None = None
    diagonal: bool = False
