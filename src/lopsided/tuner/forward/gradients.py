"""What the fused operations keep for backward, and their gradients by the formulas of `forward/fused.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lopsided.tuner.forward.compute import Selected, Term, add_term, reads

Guard = Callable[[Tensor], None]


def in_rows(x: Tensor) -> Tensor:
    """Return x as a matrix: (..., d) -> (n, d)."""
    return x.reshape(-1, x.shape[-1])


def keep(
    ctx: Any,
    x: Tensor,
    h: Tensor | None,
    A: Any,
    B: Any,
    weight: Tensor,
    scaling: float,
    rounded: Term | None = None,
) -> None:
    """Keep for backward what it needs and nothing else.

    Frozen factors and the weight are the layer's own: they are not kept, they are there.

    Args:
        rounded: A and s·B as the products take them, if backward shall not round them again.
    """
    needs_A, needs_B = ctx.needs_input_grad[2], ctx.needs_input_grad[3]
    # A frozen factor of the layer's own is of W's dtype already.
    made_A = rounded.A if rounded is not None and rounded.A is not A else None
    made_B = rounded.B if rounded is not None and isinstance(rounded.B, Tensor) else None
    ctx.save_for_backward(
        x if needs_A else None, h if needs_B else None, A if needs_A else None, B if needs_B else None, made_A, made_B
    )
    ctx.A, ctx.B = None if needs_A else A, None if needs_B else B
    ctx.rounds = rounded is not None
    ctx.weight, ctx.scaling, ctx.shape = weight, scaling, x.shape


def kept(ctx: Any) -> tuple[Any, Any, Any, Any, Term | None]:
    """Return x, h, A, B and the rounded factors as they were kept; None for what backward does not need."""
    x, h, A, B, made_A, made_B = ctx.saved_tensors
    A, B = ctx.A if A is None else A, ctx.B if B is None else B
    rounded = Term(A if made_A is None else made_A, B if made_B is None else made_B) if ctx.rounds else None
    return x, h, A, B, rounded


def grad_of_B(ctx: Any, rows: Tensor, h: Tensor | None, B: Tensor | Selected) -> Tensor | None:
    """Return ∂B = s·gᵀ·h, in B's dtype; None where B is frozen."""
    if not ctx.needs_input_grad[3]:
        return None
    assert h is not None
    assert isinstance(B, Tensor)
    # As (hᵀ·g)ᵀ: the product with few rows is the faster one.
    product = rows.new_empty(B.shape[1], B.shape[0]).addmm_(in_rows(h).t(), rows, beta=0, alpha=ctx.scaling)
    return torch.empty_like(B).copy_(product.t())


def differentiable(
    ctx: Any, g: Tensor, x: Any, h: Any, A: Any, B: Any, past: Sequence[Term] = ()
) -> tuple[Tensor | None, ...]:
    """Return the gradients as functions of g, x, h, A and B that autograd can differentiate again."""
    needs_x, _, needs_A, needs_B, *_ = ctx.needs_input_grad
    rows, term = in_rows(g), Term(A, B).to(g.dtype)
    passed = rows.index_select(1, term.B.indices) if isinstance(term.B, Selected) else rows @ term.B
    passed = passed * ctx.scaling
    grad_x = grad_A = grad_B = None
    if needs_x:
        grad_x = rows @ ctx.weight
        for other in (*past, term):
            grad_x = add_term(grad_x, rows, Term(turned(other.B), turned(other.A)), ctx.scaling)
        grad_x = grad_x.view(ctx.shape)
    if needs_A:
        grad_A = (passed.t() @ in_rows(x)).to(A.dtype)
    if needs_B:
        # Where x is kept, h was computed inside and has no history.
        hidden = reads(x, term.A) if needs_A else h
        grad_B = ((rows.t() @ in_rows(hidden)) * ctx.scaling).to(B.dtype)
    return grad_x, None, grad_A, grad_B, None, None, None


def turned(A: Tensor | Selected) -> Tensor | Selected:
    """Return Aᵀ; a selector stands for its transpose, too."""
    return A if isinstance(A, Selected) else A.t()
