"""How an adapter's low-rank terms act on activations.

Notation: x is (..., d_in), a term is s·B·A with A of (r, d_in) and B of (d_out, r). Either factor may be a
selector, kept as indices: A = selector reads r entries of x, B = its transpose writes r entries of the output.

    gather   one factor is a selector: an r-wide gather or scatter next to the layer's own product
    dense    neither is: two r-wide products
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Selected:
    """A selector S of shape (r, width), by the indices of its one-hot rows.

    Args:
        start: the first index, where the indices are neighbours in ascending order; None otherwise.
    """

    indices: Tensor
    width: int
    start: int | None = None

    def matrix(self) -> Tensor:
        """Return S written out: (r, width), float32."""
        S = torch.zeros(len(self.indices), self.width, device=self.indices.device)
        return S.scatter_(1, self.indices[:, None], 1.0)

    def to(self, device: torch.device) -> Selected:
        """Return it on a device."""
        return Selected(self.indices.to(device), self.width, self.start)

    def add_to(self, rows: Tensor, values: Tensor) -> None:
        """Add values to the selected columns of rows, in place: (n, width), (n, r)."""
        if self.start is None:
            rows.index_add_(1, self.indices, values)
        else:
            rows.narrow(1, self.start, len(self.indices)).add_(values)


@dataclass(frozen=True)
class Term:
    """One low-rank term B·A, before the scale s.

    Shapes:
        A: (r, d_in), or `Selected` of width d_in.
        B: (d_out, r), or `Selected` of width d_out standing for its transpose.
    """

    A: Tensor | Selected
    B: Tensor | Selected

    def dense(self) -> tuple[Tensor, Tensor]:
        """Return (A, B) as matrices."""
        A = self.A.matrix() if isinstance(self.A, Selected) else self.A
        B = self.B.matrix().T if isinstance(self.B, Selected) else self.B
        return A, B

    def to(self, device: torch.device) -> Term:
        """Return it on a device."""
        return Term(self.A.to(device), self.B.to(device))

    @property
    def way(self) -> str:
        """How it is computed next to the layer's product: see the module."""
        return "gather" if isinstance(self.A, Selected) or isinstance(self.B, Selected) else "dense"


def add_term(out: Tensor, x: Tensor, term: Term, scaling: float, *, cast: bool = True) -> Tensor:
    """Return out + s·(x·Aᵀ)·Bᵀ, in the term's precision, or autocast's, rounded to `out`'s.

    Args:
        cast: whether x is brought to the factors' precision; otherwise the factors are brought to x's.

    Shapes:
        out: (..., d_out); x: (..., d_in) -> (..., d_out), of `out`'s dtype.
    """
    if not cast:
        term = Term(*(f if isinstance(f, Selected) else f.to(x.dtype) for f in (term.A, term.B)))
    h = reads(x, term.A)
    if isinstance(term.B, Selected):
        return out.index_add(-1, term.B.indices, (h * scaling).to(out.dtype))
    # Scaling B costs d_out·r numbers; scaling the output would cost d_out per token.
    return out + _linear(h, term.B * scaling).to(out.dtype)


def reads(x: Tensor, A: Tensor | Selected) -> Tensor:
    """Return x·Aᵀ: (..., d_in) -> (..., r)."""
    if not isinstance(A, Selected):
        return _linear(x, A)
    # Compiled code would be compiled again for every start, and given up after eight links.
    if not torch.compiler.is_compiling() and A.start is not None:
        # A copy, since a view would keep all of x for backward.
        return x.narrow(-1, A.start, len(A.indices)).contiguous()
    # torch selects from rows of a matrix several times as fast as from those of a stack of matrices.
    return x.reshape(-1, x.shape[-1]).index_select(1, A.indices).view(*x.shape[:-1], len(A.indices))


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(weight.dtype)
    return F.linear(x, weight)


def concatenate(terms: Sequence[Term]) -> list[Term]:
    """Return the same sum in as few terms as its kinds of factor allow: Σ B_t·A_t = [B_1 … B_k]·[A_1; …; A_k]."""
    kinds: dict[tuple[bool, bool], list[Term]] = {}
    for term in terms:
        kinds.setdefault((isinstance(term.A, Selected), isinstance(term.B, Selected)), []).append(term)
    return [Term(_stack([t.A for t in group], dim=0), _stack([t.B for t in group], dim=1)) for group in kinds.values()]


def _stack(factors: Sequence[Tensor | Selected], dim: int) -> Tensor | Selected:
    selected = [factor for factor in factors if isinstance(factor, Selected)]
    if selected:
        return Selected(torch.cat([factor.indices for factor in selected]), selected[0].width)
    return torch.cat([factor for factor in factors if isinstance(factor, Tensor)], dim=dim)
