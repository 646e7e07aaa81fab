"""Layers that compute x·Wᵀ + b: `nn.Linear`, and transformers' `Conv1D`, which stores Wᵀ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.tuner.forward.compute import Term, add_term
from lopsided.tuner.kinds.contract import LayerKind


class LinearKind(LayerKind):
    """x of (..., d_in) -> (..., d_out). Subclasses with a forward of their own are adapted next to it."""

    word: ClassVar[str] = "linear"
    bases: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)
    names: ClassVar[tuple[str, ...]] = ("torch.nn.Linear",)
    forwards: ClassVar[tuple[Callable[..., Any], ...]] = (nn.Linear.forward,)

    def widths(self, base: Any) -> tuple[int, int]:
        """Return (d_out, d_in)."""
        return base.out_features, base.in_features

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the weight itself."""
        return weight

    def stored(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Return the matrix itself."""
        return matrix

    def add(self, base: Any, out: Tensor, x: Tensor, term: Term, scaling: float, *, cast: bool) -> Tensor:
        """Return out + s·(x·Aᵀ)·Bᵀ."""
        return add_term(out, x, term, scaling, cast=cast)

    def inputs(self, base: Any, x: Tensor) -> Tensor:
        """Return the rows of x: (..., d_in) -> (n, d_in)."""
        # torch's encoder hands a padded batch on as a nested tensor, without its padding.
        return torch.cat(x.unbind()) if x.is_nested else x.reshape(-1, x.size(-1))

    def reading(self, base: Any) -> tuple[Any, ...]:
        """Return the same for all: nothing but x decides."""
        return ("rows",)


class TransposedKind(LinearKind):
    """A linear layer that stores Wᵀ."""

    word: ClassVar[str] = "Conv1D"
    bases: ClassVar[tuple[type[nn.Module], ...]] = (Conv1D,)
    names: ClassVar[tuple[str, ...]] = ("transformers' Conv1D",)
    forwards: ClassVar[tuple[Callable[..., Any], ...]] = (Conv1D.forward,)

    def widths(self, base: Any) -> tuple[int, int]:
        """Return (d_out, d_in), which the shape of the weight says the other way round."""
        d_in, d_out = base.weight.shape
        return d_out, d_in

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the transpose."""
        return weight.T

    def stored(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Return the transpose."""
        return matrix.T
