"""The layer's own product and its adapter's, one added into the other: see `forward/fused.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lopsided.tuner.forward.compute import Selected, Term, reads
from lopsided.tuner.forward.gradients import Guard, differentiable, grad_of_B, in_rows, keep, kept, turned


def beside(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    term: Term,
    scaling: float,
    *,
    past: Sequence[Term] = (),
    guard: Guard | None = None,
) -> Tensor:
    """Compute x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ, with any term, plus s·(x·Aᵀ)·Bᵀ of past ones.

    Args:
        term: its frozen factor is of W's dtype; a trained one may be float32.
        past: frozen, of W's dtype.
        guard: is called with y's gradient when backward begins.

    Shapes:
        x: (..., d_in), weight: (d_out, d_in), bias: (d_out,) -> (..., d_out).
    """
    keeps_x = isinstance(term.A, Tensor) and term.A.requires_grad
    # A trained factor is float32 where nothing trains, too.
    h = None if keeps_x else reads(x, term.A.to(weight.dtype))
    if not torch.is_grad_enabled():
        return _value(x, h, _rounded(term, scaling, weight.dtype), weight, bias, scaling, past)[0]
    return _Beside.apply(x, h, term.A, term.B, weight, bias, scaling, past, guard)


class _Beside(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor | None,
        A: Tensor | Selected,
        B: Tensor | Selected,
        weight: Tensor,
        bias: Tensor | None,
        scaling: float,
        past: Sequence[Term],
        guard: Guard | None,
    ) -> Tensor:
        """Compute y."""
        rounded = _rounded(Term(A, B), scaling, weight.dtype)
        y, hidden = _value(x, h, rounded, weight, bias, scaling, past)
        # The casts of masters are kept, which take half of their bytes; float32 is what it is.
        casts = None if weight.dtype == torch.float32 else rounded
        keep(ctx, x, hidden if h is None else h, A, B, weight, scaling, casts)
        ctx.past, ctx.guard = past, guard
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Compute ∂x, ∂A and ∂B by the formulas of the module."""
        if ctx.guard is not None:
            ctx.guard(g)
        x, h, A, B, casts = kept(ctx)
        if torch.is_grad_enabled():
            return (*differentiable(ctx, g, x, h, A, B, ctx.past), None, None)
        rows, scaling, grad_x, grad_A = in_rows(g), ctx.scaling, None, None
        rounded = _rounded(Term(A, B), scaling, g.dtype) if casts is None else casts
        # s·g·B, of (n, r): what the adapter passes on to x through A.
        passed = _passed(rows, rounded.B, scaling)
        if ctx.needs_input_grad[0]:
            added = [(_passed(rows, _scaled(t.B, scaling, g.dtype), scaling), turned(t.A)) for t in ctx.past]
            added.append((passed, turned(rounded.A)))
            grad_x = g.new_empty(ctx.shape)
            _sum(in_rows(grad_x), rows, ctx.weight, None, added)
        if ctx.needs_input_grad[2]:
            grad_A = torch.empty_like(A).copy_(passed.t() @ in_rows(x))
        return grad_x, None, grad_A, grad_of_B(ctx, rows, h, B), None, None, None, None, None


def _value(
    x: Tensor,
    h: Tensor | None,
    rounded: Term,
    weight: Tensor,
    bias: Tensor | None,
    scaling: float,
    past: Sequence[Term],
) -> tuple[Tensor, Tensor]:
    """Return y, and x·Aᵀ in rows."""
    rows, dtype = in_rows(x), weight.dtype
    hidden = reads(rows, rounded.A) if h is None else in_rows(h)
    added = [(reads(rows, other.A), _scaled(other.B, scaling, dtype)) for other in past]
    added.append((hidden, rounded.B))
    # Not a view of what is computed in rows: a caller may change it in place.
    y = x.new_empty(*x.shape[:-1], len(weight))
    _sum(in_rows(y), rows, weight.t(), bias, added, scaling, small_first=dtype != torch.float32)
    return y, hidden


def _rounded(term: Term, scaling: float, dtype: torch.dtype) -> Term:
    """Return A and s·B in a dtype."""
    return Term(term.A.to(dtype), _scaled(term.B, scaling, dtype))


def _scaled(B: Tensor | Selected, scaling: float, dtype: torch.dtype) -> Tensor | Selected:
    """Return s·B in a dtype, rounded once; a selector as it is."""
    if isinstance(B, Selected):
        return B
    return torch.mul(B, scaling, out=torch.empty_like(B, dtype=dtype))


def _passed(rows: Tensor, scaled: Tensor | Selected, scaling: float) -> Tensor:
    """Return s·g·B from s·B or a selector: (n, d_out) -> (n, r)."""
    if isinstance(scaled, Selected):
        return rows.index_select(1, scaled.indices).mul_(scaling)
    return rows @ scaled


def _sum(
    out: Tensor,
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    added: Sequence[tuple[Tensor, Tensor | Selected]],
    scaling: float = 1.0,
    *,
    small_first: bool = False,
) -> None:
    """Put rows·weight + bias + Σ h·Bᵀ into `out`, over the pairs (h, B) that are added; s·h·Bᵀ where B is a selector.

    Args:
        small_first: the large product comes last, and is added to the others in its own accumulators: 16 bits then
            round the sum once, where they would lose a small part after the rounding of a large one.
    """
    dense = [(h, B.t()) for h, B in added if isinstance(B, Tensor)]
    products = [*dense, (rows, weight)] if small_first else [(rows, weight), *dense]
    first, *others = products
    if bias is None:
        torch.mm(*first, out=out)
    else:
        torch.addmm(bias, *first, out=out)
    for left, right in others:
        out.addmm_(left, right)
    for h, B in added:
        if isinstance(B, Selected):
            B.add_to(out, h, scaling)
