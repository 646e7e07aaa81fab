"""The layer's own product with an adapter's columns or rows lent to its weight: see `forward/fused.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from lopsided.tuner.forward.compute import Selected, Term, reads
from lopsided.tuner.forward.gradients import Guard, differentiable, grad_of_B, in_rows, keep, kept


class Lock:
    """One thread at a time in a weight that is lent; a copied or unpickled layer gets a lock of its own.

    `with lock.mutex:` enters it. It has no `__enter__` of its own, since each product of a training step takes it.
    """

    def __init__(self) -> None:
        self.mutex = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Lock, ()


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
    """Compute x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ with a term of which one factor is a selector.

    The weight is written to through `.data`, past autograd's version counter, and holds its own bits again when the
    operation ends, however it ends.
    """
    h = reads(x, term.A) if isinstance(term.A, Selected) else None
    return _Patched.apply(x, h, term.A, term.B, weight, bias, scaling, lock, guard)


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
        keep(ctx, x, h, A, B, weight, scaling)
        return _lent(weight, A, B, scaling, lock, x, lambda x, W: F.linear(x, W, bias))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Compute ∂x in one product with the changed W, and ∂A or ∂B by the formulas of the module."""
        if ctx.guard is not None:
            ctx.guard(g)
        x, h, A, B, _ = kept(ctx)
        if torch.is_grad_enabled():
            return (*differentiable(ctx, g, x, h, A, B), None, None)
        rows, grad_x, grad_A = in_rows(g), None, None
        if ctx.needs_input_grad[0]:
            grad_x = _lent(ctx.weight, A, B, ctx.scaling, ctx.lock, rows, torch.mm).view(ctx.shape)
        if ctx.needs_input_grad[2]:
            grad_A = (rows.index_select(1, B.indices).t() @ in_rows(x)).mul_(ctx.scaling)
        return grad_x, None, grad_A, grad_of_B(ctx, rows, h, B), None, None, None, None, None


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
