"""Parameters of modules that are no layers of their own: a router's matrix, or the stacked matrices of experts.

Notation: a parameter of (d_out, d_in), or a stack of E of them, (E, d_out, d_in), or (E, d_in, d_out) where the module
multiplies from the left. Every matrix of a stack has an adapter of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lopsided.tuner.forward.compute import Term, add_term
from lopsided.tuner.kinds.contract import LayerKind


class ParameterMatrix(nn.Module):
    """One matrix of a module's parameter, as a layer. Its weight is the whole parameter, which stays the module's."""

    def __init__(self, owner: nn.Module, parameter: str, kind: MatrixKind) -> None:
        super().__init__()
        # In a tuple, since an attribute that is a module would be a part of this one.
        self.owner, self.parameter, self.kind = (owner,), parameter, kind

    @property
    def weight(self) -> Tensor:
        """The parameter: all matrices of it."""
        weight = getattr(self.owner[0], self.parameter)
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Compute x·Wᵀ with this matrix: (..., d_in) -> (..., d_out)."""
        return nn.functional.linear(x, self.kind.matrix(self.weight))


@dataclass(frozen=True)
class MatrixKind(LayerKind):
    """One matrix of a parameter.

    Args:
        index: its place in the stack; None for a parameter that is one matrix.
        transposed: whether it is stored as (d_in, d_out).
    """

    word: ClassVar[str] = "parameter"
    bases: ClassVar[tuple[type[nn.Module], ...]] = (ParameterMatrix,)
    names: ClassVar[tuple[str, ...]] = ()
    forwards: ClassVar[tuple[Callable[..., Any], ...]] = (ParameterMatrix.forward,)
    drops: ClassVar[bool] = False
    sees_inputs: ClassVar[bool] = False
    index: int | None = None
    transposed: bool = False

    def widths(self, base: Any) -> tuple[int, int]:
        """Return (d_out, d_in)."""
        d_out, d_in = self.matrix(base.weight).shape
        return d_out, d_in

    def matrix(self, weight: Tensor) -> Tensor:
        """Return this matrix as (d_out, d_in), in the parameter's memory."""
        own = weight if self.index is None else weight[self.index]
        return own.mT if self.transposed else own

    def stored(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Return it as it lies in the stack."""
        return matrix.mT if self.transposed else matrix

    def add(self, base: Any, out: Tensor, x: Tensor, term: Term, scaling: float, *, cast: bool) -> Tensor:
        """Return out + s·(x·Aᵀ)·Bᵀ."""
        return add_term(out, x, term, scaling, cast=cast)
