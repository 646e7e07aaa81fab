"""The layer's own product and its adapter's in one operation of autograd.

Notation: y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ with W of (d_out, d_in) frozen, x of (..., d_in), h = x·Aᵀ of (..., r) and g the
gradient of y. What is needed is

    ∂x = g·W + (s·g·B)·A      ∂B = s·gᵀ·h      ∂A = (s·g·B)ᵀ·x

so training B keeps h for backward and training A keeps x. There are two operations:

    beside    the low-rank products are added into W's own, in place: no sum is a pass of its own. So are those of
              past links that stand next to W
    patched   a selector's r columns (or rows) of W hold W0 + s·B (or s·A) during the product, and there is no
              second product at all: for float32, since 16 bits would round small updates away

`beside` computes in W's dtype. Where that has 16 bits, trained factors are float32 masters: s·B and A are rounded to 16
bits for the products, which accumulate in float32, and so are the factors' gradients before they become float32. Stock
PEFT with 16-bit factors computes the same, and rounds the layer's own product and the scaled one besides.

Second derivatives are right: with `create_graph=True` the backward is computed from the formulas above by autograd's
own operations. For that, h enters as an input with a history of its own wherever x is not kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function, forward_ad
from transformers.pytorch_utils import Conv1D

from lopsided.tuner.forward.compute import Selected, Term, add_term, reads


class Lock:
    """One thread at a time in a weight that is lent; a copied or unpickled layer gets a lock of its own.

    `with lock.mutex:` enters it. It has no `__enter__` of its own, since each product of a training step takes it.
    """

    def __init__(self) -> None:
        self.mutex = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Lock, ()


Guard = Callable[[Tensor], None]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def can_fuse(x: Tensor) -> bool:
    """Return whether these operations apply to an input: eager, no transform of functions."""
    return not (
        torch.compiler.is_compiling()
        or x.dtype not in DTYPES
        or type(x) not in (Tensor, nn.Parameter)
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def product_dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """Return what x·Wᵀ is computed in, by autocast or by both; None if they differ."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if x.dtype == weight.dtype else None


def is_bare(layer: Any) -> bool:
    """Return whether a layer's own product can be one operation with an adapter's.

    It is a frozen product, and nothing runs around it: no hook, and no forward on the instance, where accelerate's
    offloading puts one.
    """
    weight = layer.weight
    return (
        weight.dtype in DTYPES
        and type(weight) is nn.Parameter
        and not weight.requires_grad
        and type(layer) in (nn.Linear, Conv1D)
        and not (layer.bias is not None and (layer.bias.requires_grad or layer.bias.dtype != weight.dtype))
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        and "forward" not in vars(layer)
    )


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
    h = None if keeps_x else reads(x, term.A)
    if not torch.is_grad_enabled():
        return _value(x, h, _rounded(term, scaling, weight.dtype), weight, bias, scaling, past)[0]
    return _Beside.apply(x, h, term.A, term.B, weight, bias, scaling, past, guard)


def patched(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    term: Term,
    scaling: float,
    lock: Lock,
    *,
    guard: Guard | None = None,
) -> Tensor:
    """Compute the same with a term of which one factor is a selector.

    The weight is written to through `.data`, past autograd's version counter, and holds its own bits again when the
    operation ends, however it ends.
    """
    h = reads(x, term.A) if isinstance(term.A, Selected) else None
    return _Patched.apply(x, h, term.A, term.B, weight, bias, scaling, lock, guard)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


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
        _keep(ctx, x, hidden if h is None else h, A, B, weight, scaling)
        # The casts of masters are kept, which take half of their bytes; float32 is what it is.
        ctx.rounded = None if weight.dtype == torch.float32 else rounded
        ctx.past, ctx.guard = past, guard
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Compute ∂x, ∂A and ∂B by the formulas of the module."""
        if ctx.guard is not None:
            ctx.guard(g)
        x, h, A, B = _kept(ctx)
        if torch.is_grad_enabled():
            return (*_differentiable(ctx, g, x, h, A, B, ctx.past), None, None)
        rows, scaling, grad_x, grad_A = _rows(g), ctx.scaling, None, None
        rounded = _rounded(Term(A, B), scaling, g.dtype) if ctx.rounded is None else ctx.rounded
        # s·g·B, of (n, r): what the adapter passes on to x through A.
        passed = _passed(rows, rounded.B, scaling)
        if ctx.needs_input_grad[0]:
            added = [(_passed(rows, _scaled(t.B, scaling, g.dtype), scaling), _turned(t.A)) for t in ctx.past]
            added.append((passed, _turned(rounded.A)))
            grad_x = g.new_empty(ctx.shape)
            _sum(_rows(grad_x), rows, ctx.weight, None, added)
        if ctx.needs_input_grad[2]:
            grad_A = torch.empty_like(A).copy_(passed.t() @ _rows(x))
        return grad_x, None, grad_A, _grad_B(ctx, rows, h, B), None, None, None, None, None


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
    rows, dtype = _rows(x), weight.dtype
    hidden = reads(rows, rounded.A) if h is None else _rows(h)
    added = [(reads(rows, other.A), _scaled(other.B, scaling, dtype)) for other in past]
    added.append((hidden, rounded.B))
    # Not a view of what is computed in rows: a caller may change it in place.
    y = x.new_empty(*x.shape[:-1], len(weight))
    _sum(_rows(y), rows, weight.t(), bias, added, scaling, small_first=dtype != torch.float32)
    return y, hidden


def _rounded(term: Term, scaling: float, dtype: torch.dtype) -> Term:
    """Return A and s·B in a dtype."""
    return Term(_in(term.A, dtype), _scaled(term.B, scaling, dtype))


def _in(factor: Tensor | Selected, dtype: torch.dtype) -> Tensor | Selected:
    return factor if isinstance(factor, Selected) else factor.to(dtype)


def _turned(A: Tensor | Selected) -> Tensor | Selected:
    """Return Aᵀ; a selector stands for its transpose, too."""
    return A if isinstance(A, Selected) else A.t()


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


class _Patched(Function):
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
        lock: Lock,
        guard: Guard | None,
    ) -> Tensor:
        """Compute y in one product, with the selected columns or rows of W changed while it runs."""
        ctx.lock, ctx.guard = lock, guard
        _keep(ctx, x, h, A, B, weight, scaling)
        return _lent(weight, A, B, scaling, lock, x, lambda x, W: F.linear(x, W, bias))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Compute ∂x in one product with the changed W, and ∂A or ∂B by the formulas of the module."""
        if ctx.guard is not None:
            ctx.guard(g)
        x, h, A, B = _kept(ctx)
        if torch.is_grad_enabled():
            return (*_differentiable(ctx, g, x, h, A, B), None, None)
        rows, grad_x, grad_A = _rows(g), None, None
        if ctx.needs_input_grad[0]:
            grad_x = _lent(ctx.weight, A, B, ctx.scaling, ctx.lock, rows, torch.mm).view(ctx.shape)
        if ctx.needs_input_grad[2]:
            grad_A = (rows.index_select(1, B.indices).t() @ _rows(x)).mul_(ctx.scaling)
        return grad_x, None, grad_A, _grad_B(ctx, rows, h, B), None, None, None, None, None


def _keep(ctx: Any, x: Tensor, h: Tensor | None, A: Any, B: Any, weight: Tensor, scaling: float) -> None:
    """Keep for backward what it needs and nothing else.

    Frozen factors and the weight are the layer's own: they are not kept, they are there.
    """
    needs_A, needs_B = ctx.needs_input_grad[2], ctx.needs_input_grad[3]
    ctx.save_for_backward(
        x if needs_A else None, h if needs_B else None, A if needs_A else None, B if needs_B else None
    )
    ctx.A, ctx.B = None if needs_A else A, None if needs_B else B
    ctx.weight, ctx.scaling, ctx.shape = weight, scaling, x.shape


def _kept(ctx: Any) -> tuple[Any, Any, Any, Any]:
    x, h, A, B = ctx.saved_tensors
    return x, h, ctx.A if A is None else A, ctx.B if B is None else B


def _grad_B(ctx: Any, rows: Tensor, h: Tensor | None, B: Tensor | Selected) -> Tensor | None:
    if not ctx.needs_input_grad[3]:
        return None
    assert h is not None
    assert isinstance(B, Tensor)
    # As (hᵀ·g)ᵀ: the product with few rows is the faster one.
    product = rows.new_empty(B.shape[1], B.shape[0]).addmm_(_rows(h).t(), rows, beta=0, alpha=ctx.scaling)
    return torch.empty_like(B).copy_(product.t())


def _differentiable(
    ctx: Any, g: Tensor, x: Any, h: Any, A: Any, B: Any, past: Sequence[Term] = ()
) -> tuple[Tensor | None, ...]:
    """Return the gradients as functions of g, x, h, A and B that autograd can differentiate again."""
    needs_x, _, needs_A, needs_B, *_ = ctx.needs_input_grad
    rows, dtypes = _rows(g), [getattr(factor, "dtype", None) for factor in (A, B)]
    A, B = _in(A, g.dtype), _in(B, g.dtype)
    passed = rows.index_select(1, B.indices) if isinstance(B, Selected) else rows @ B
    passed = passed * ctx.scaling
    grad_x = grad_A = grad_B = None
    if needs_x:
        grad_x = rows @ ctx.weight
        for term in (*past, Term(A, B)):
            grad_x = add_term(grad_x, rows, Term(_turned(term.B), _turned(term.A)), ctx.scaling)
        grad_x = grad_x.view(ctx.shape)
    if needs_A:
        grad_A = (passed.t() @ _rows(x)).to(dtypes[0])
    if needs_B:
        # Where x is kept, h was computed inside and has no history.
        hidden = reads(x, A) if needs_A else h
        grad_B = ((rows.t() @ _rows(hidden)) * ctx.scaling).to(dtypes[1])
    return grad_x, None, grad_A, grad_B, None, None, None


def _lent(
    weight: Tensor, A: Tensor | Selected, B: Tensor | Selected, scaling: float, lock: Lock, left: Tensor, product: Any
) -> Tensor:
    """Compute product(left, W) while W holds W0 + s·B·A, where A or B is a selector."""
    dim = int(isinstance(A, Selected))
    selected, trained = (A, B) if dim else (B, A)
    assert isinstance(selected, Selected), "one factor is a selector"
    assert isinstance(trained, Tensor), "the other one is trained"
    matrix = weight.data
    with lock.mutex:
        own, put = _loan(matrix, dim, selected)
        changed = torch.add(own, trained, alpha=scaling)
        # Each way back is one call of a method in C, before which no signal is looked at: a Ctrl-C can't leave the
        # weight changed.
        try:
            put(changed)
            return product(left, matrix)
        finally:
            put(own)


def _loan(matrix: Tensor, dim: int, selected: Selected) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return a copy of the selected rows (dim 0) or columns (dim 1), and the method that puts others there."""
    indices = selected.indices
    if selected.start is not None:
        window = matrix.narrow(dim, selected.start, len(indices))
        return window.clone(), window.copy_
    return matrix.index_select(dim, indices), partial(matrix.index_copy_, dim, indices)
