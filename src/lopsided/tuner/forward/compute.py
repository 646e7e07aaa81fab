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

    def to(self, to: torch.device | torch.dtype) -> Selected:
        """Return it on a device. It has no dtype: its entries are 0 and 1."""
        return self if isinstance(to, torch.dtype) else Selected(self.indices.to(to), self.width, self.start)

    def add_to(self, rows: Tensor, values: Tensor, scaling: float) -> None:
        """Add s·values to the selected columns of rows, in place: (n, width), (n, r)."""
        if self.start is None:
            # Several times as fast as `index_add_`, and the same, since no index comes twice.
            columns = rows.index_select(1, self.indices)
            rows.index_copy_(1, self.indices, columns.add_(values, alpha=scaling))
        else:
            rows.narrow(1, self.start, len(self.indices)).add_(values, alpha=scaling)


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

    def to(self, to: torch.device | torch.dtype) -> Term:
        """Return it on a device, or in a dtype."""
        return Term(self.A.to(to), self.B.to(to))

    @property
    def way(self) -> str:
        """How it is computed next to the layer's product: see the module."""
        return "gather" if isinstance(self.A, Selected) or isinstance(self.B, Selected) else "dense"


def add_term(out: Tensor, x: Tensor, term: Term, scaling: float, *, cast: bool = True) -> Tensor:
    """Return out + s·(x·Aᵀ)·Bᵀ, in the term's precision, or autocast's, rounded to `out`'s.

    Args:
        cast: whether x is brought to the factors' precision; otherwise s·B and A are brought to x's.

    Shapes:
        out: (..., d_out); x: (..., d_in) -> (..., d_out), of `out`'s dtype.
    """
    h = reads(x, term.A if cast else term.A.to(x.dtype))
    return add_hidden(out, h, term.B, scaling, cast=cast)


def add_hidden(out: Tensor, h: Tensor, B: Tensor | Selected, scaling: float, *, cast: bool = True) -> Tensor:
    """Return out + s·h·Bᵀ: the second half of `add_term`.

    Shapes:
        out: (..., d_out); h: (..., r) -> (..., d_out), of `out`'s dtype.
    """
    if isinstance(B, Selected):
        return out.index_add(-1, B.indices, (h * scaling).to(out.dtype))
    # Scaling B costs d_out·r numbers; scaling the output would cost d_out per token.
    B = B * scaling
    return out + _linear(h, B if cast else B.to(h.dtype)).to(out.dtype)


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
    """Return the same sum in as few terms as its kinds of factor allow: Σ B_t·A_t = [B_1 … B_k]·[A_1; …; A_k].

    Columns that several selectors read become one, in ascending order, with the sum of what was trained for them: a
    chain of windows reads one window.
    """
    kinds: dict[tuple[bool, bool], list[Term]] = {}
    for term in terms:
        kinds.setdefault((isinstance(term.A, Selected), isinstance(term.B, Selected)), []).append(term)
    return [_joined([t.A for t in group], [t.B for t in group]) for group in kinds.values()]


def _joined(As: Sequence[Tensor | Selected], Bs: Sequence[Tensor | Selected]) -> Term:
    read, written = _matrices(As), _matrices(Bs)
    if read and written:
        return Term(torch.cat(read, dim=0), torch.cat(written, dim=1))
    if written:
        selector, B = _summed(_selectors(As), torch.cat(written, dim=1), dim=1)
        return Term(selector, B)
    if read:
        selector, A = _summed(_selectors(Bs), torch.cat(read, dim=0), dim=0)
        return Term(A, selector)
    return Term(_next_to_each_other(_selectors(As)), _next_to_each_other(_selectors(Bs)))


def _matrices(factors: Sequence[Tensor | Selected]) -> list[Tensor]:
    return [factor for factor in factors if isinstance(factor, Tensor)]


def _selectors(factors: Sequence[Tensor | Selected]) -> list[Selected]:
    return [factor for factor in factors if isinstance(factor, Selected)]


def _next_to_each_other(selectors: Sequence[Selected]) -> Selected:
    return Selected(torch.cat([selector.indices for selector in selectors]), selectors[0].width)


def _summed(selectors: Sequence[Selected], trained: Tensor, dim: int) -> tuple[Selected, Tensor]:
    """Return the selector of all selected columns, and the trained entries of each, summed along `dim`."""
    columns, place = torch.unique(_next_to_each_other(selectors).indices, return_inverse=True)
    shape = [len(columns) if axis == dim else size for axis, size in enumerate(trained.shape)]
    total = trained.new_zeros(shape).index_add_(dim, place, trained)
    neighbours = int(columns[-1] - columns[0]) == len(columns) - 1
    return Selected(columns, selectors[0].width, int(columns[0]) if neighbours else None), total
