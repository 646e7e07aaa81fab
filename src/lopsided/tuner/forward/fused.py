"""The layer's own product and its adapter's in one operation of autograd.

Notation: y = x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ with W of (d_out, d_in) frozen, x of (..., d_in), h = x·Aᵀ of (..., r) and g the
gradient of y. What is needed is

    ∂x = g·W + (s·g·B)·A      ∂B = s·gᵀ·h      ∂A = (s·g·B)ᵀ·x

so training B keeps h for backward and training A keeps x. There are two operations:

    beside    both low-rank products are added into W's own, in place: no sum is a pass of its own
    patched   a selector's r columns (or rows) of W hold W0 + s·B (or s·A) during the product, and there is no
              second product at all

Second derivatives are right: with `create_graph=True` the backward is computed from the formulas above by autograd's
own operations. For that, h enters as an input with a history of its own wherever x is not kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
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


def can_fuse(x: Tensor) -> bool:
    """Return whether these operations apply to an input: eager float32, no autocast, no transform of functions."""
    return not (
        torch.compiler.is_compiling()
        or x.dtype != torch.float32
        or type(x) not in (Tensor, nn.Parameter)
        or torch.is_autocast_enabled(x.device.type)
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def is_bare(layer: Any) -> bool:
    """Return whether a layer's own product can be one operation with an adapter's.

    It is a frozen float32 product, and nothing runs around it: no hook, and no forward on the instance, where
    accelerate's offloading puts one.
    """
    weight = layer.weight
    return (
        weight.dtype == torch.float32
        and type(weight) is nn.Parameter
        and not weight.requires_grad
        and type(layer) in (nn.Linear, Conv1D)
        and not (layer.bias is not None and layer.bias.requires_grad)
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
        and "forward" not in vars(layer)
    )


def beside(x: Tensor, weight: Tensor, bias: Tensor | None, term: Term, scaling: float) -> Tensor:
    """Compute x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ, with any term.

    Shapes:
        x: (..., d_in), weight: (d_out, d_in), bias: (d_out,) -> (..., d_out).
    """
    keeps_x = isinstance(term.A, Tensor) and term.A.requires_grad
    h = None if keeps_x else reads(x, term.A)
    return _Beside.apply(x, h, term.A, term.B, weight, bias, scaling)


def patched(x: Tensor, weight: Tensor, bias: Tensor | None, term: Term, scaling: float, lock: Lock) -> Tensor:
    """Compute the same with a term of which one factor is a selector.

    The weight is written to through `.data`, past autograd's version counter, and holds its own bits again when the
    operation ends, however it ends.
    """
    h = reads(x, term.A) if isinstance(term.A, Selected) else None
    return _Patched.apply(x, h, term.A, term.B, weight, bias, scaling, lock)


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
    ) -> Tensor:
        """Compute y: the low-rank product is added in place into the layer's own."""
        hidden = _rows(reads(x, A) if h is None else h)
        y = F.linear(x, weight, bias)
        rows = y.view(-1, y.shape[-1])
        if isinstance(B, Selected):
            B.add_to(rows, hidden * scaling)
        else:
            rows.addmm_(hidden, (B * scaling).t())
        _keep(ctx, x, hidden if h is None else h, A, B, weight, scaling)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Compute ∂x, ∂A and ∂B by the formulas of the module."""
        x, h, A, B = _kept(ctx)
        if torch.is_grad_enabled():
            return _differentiable(ctx, g, x, h, A, B)
        rows = _rows(g)
        # s·g·B, of (n, r): what the adapter passes on to x through A.
        passed = rows.index_select(1, B.indices) if isinstance(B, Selected) else rows @ B
        passed *= ctx.scaling
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = rows @ ctx.weight
            if isinstance(A, Selected):
                A.add_to(grad_x, passed)
            else:
                grad_x.addmm_(passed, A)
            grad_x = grad_x.view(ctx.shape)
        grad_A = passed.t() @ _rows(x) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_A, _grad_B(ctx, rows, h), None, None, None


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
    ) -> Tensor:
        """Compute y in one product, with the selected columns or rows of W changed while it runs."""
        ctx.lock = lock
        _keep(ctx, x, h, A, B, weight, scaling)
        return _lent(weight, A, B, scaling, lock, x, lambda x, W: F.linear(x, W, bias))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Compute ∂x in one product with the changed W, and ∂A or ∂B by the formulas of the module."""
        x, h, A, B = _kept(ctx)
        if torch.is_grad_enabled():
            return (*_differentiable(ctx, g, x, h, A, B), None)
        rows, grad_x, grad_A = _rows(g), None, None
        if ctx.needs_input_grad[0]:
            grad_x = _lent(ctx.weight, A, B, ctx.scaling, ctx.lock, rows, torch.mm).view(ctx.shape)
        if ctx.needs_input_grad[2]:
            grad_A = (rows.index_select(1, B.indices).t() @ _rows(x)).mul_(ctx.scaling)
        return grad_x, None, grad_A, _grad_B(ctx, rows, h), None, None, None, None


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


def _grad_B(ctx: Any, rows: Tensor, h: Tensor | None) -> Tensor | None:
    if not ctx.needs_input_grad[3]:
        return None
    assert h is not None
    # As (hᵀ·g)ᵀ: the product with few rows is the faster one.
    return (_rows(h).t() @ rows).mul_(ctx.scaling).t().contiguous()


def _differentiable(ctx: Any, g: Tensor, x: Any, h: Any, A: Any, B: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients as functions of g, x, h, A and B that autograd can differentiate again."""
    needs_x, _, needs_A, needs_B, *_ = ctx.needs_input_grad
    rows = _rows(g)
    passed = rows.index_select(1, B.indices) if isinstance(B, Selected) else rows @ B
    passed = passed * ctx.scaling
    grad_x = grad_A = grad_B = None
    if needs_x:
        back = Term(B if isinstance(B, Selected) else B.t(), A if isinstance(A, Selected) else A.t())
        grad_x = add_term(rows @ ctx.weight, rows, back, ctx.scaling).view(ctx.shape)
    if needs_A:
        grad_A = passed.t() @ _rows(x)
    if needs_B:
        # Where x is kept, h was computed inside and has no history.
        hidden = reads(x, A) if needs_A else h
        grad_B = (rows.t() @ _rows(hidden)) * ctx.scaling
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
