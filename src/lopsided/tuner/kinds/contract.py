"""What a kind of layer says, so that everything else can take its weight for a matrix.

Notation: a layer's weight stands for a matrix W of (d_out, d_in), and what the layer computes is linear in it. An
adapter adds s·B·A to W, with A of (r, d_in) and B of (d_out, r). Sketches, chains, undo, files and bounds know W alone.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.tuner.forward.compute import Term


class LayerKind(abc.ABC):
    """A kind of layer.

    Class attributes:
        word: its name in tables.
        bases: the classes of its layers.
        names: what errors call these classes.
        forwards: the forwards that compute with the weight and a bias, and nothing else.
        drops: whether dropout may act on the input.
        sees_inputs: whether what W multiplies is given to a call of the layer, as `inputs` reads it.
        one_hot: whether each input is a token, which W multiplies as a one-hot vector.
    """

    word: ClassVar[str]
    bases: ClassVar[tuple[type[nn.Module], ...]]
    names: ClassVar[tuple[str, ...]]
    forwards: ClassVar[tuple[Callable[..., Any], ...]]
    drops: ClassVar[bool] = True
    sees_inputs: ClassVar[bool] = True
    one_hot: ClassVar[bool] = False

    @abc.abstractmethod
    def widths(self, base: Any) -> tuple[int, int]:
        """Return (d_out, d_in)."""

    @abc.abstractmethod
    def matrix(self, weight: Tensor) -> Tensor:
        """Return W as (d_out, d_in): the weight's own memory where `shares_memory` says so."""

    @abc.abstractmethod
    def stored(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Return a matrix of (d_out, d_in) in the layout of a weight of this shape: the inverse of `matrix`."""

    @abc.abstractmethod
    def add(self, base: Any, out: Tensor, x: Tensor, term: Term, scaling: float, *, cast: bool) -> Tensor:
        """Return the layer's output plus what s·B·A adds to it on x.

        Args:
            base: the layer.
            out: what the layer itself computed from x.
            cast: whether x is brought to the factors' precision; otherwise the factors are brought to x's.
        """

    def inputs(self, base: Any, x: Tensor) -> Tensor:
        """Return what W multiplies in a call: (n, d_in), or n tokens where they are one-hot.

        Raises:
            LopsidedError: of a kind that sees none.
        """
        raise LopsidedError(f"what multiplies a {self.word} is not known; expected a layer; leave it out")

    def reading(self, base: Any) -> tuple[Any, ...]:
        """Return what `inputs` depends on besides x: layers with equal values have equal inputs for the same x."""
        return (self.word, id(base))

    def as_lora(self, base: Any, A: Tensor, B: Tensor) -> dict[str, Tensor]:
        """Return ΔW = B·A as stock PEFT's LoRA adapter of such a layer holds it, by what follows the module's name.

        Args:
            B: with the scale in it.
        """
        return {"lora_A.weight": A, "lora_B.weight": B}

    def why_no_lora(self, base: Any) -> str | None:
        """Return why stock PEFT's LoRA would compute something else in such a layer; None if it would not."""
        return None

    def shares_memory(self, weight: Tensor) -> bool:
        """Return whether writing into `matrix(weight)` writes into the weight."""
        return True

    def dtype(self, x: Tensor, out: Tensor) -> torch.dtype:
        """Return the dtype that the layer computes in."""
        return x.dtype

    def why_not(self, base: Any) -> str | None:
        """Return what about a layer of this kind forbids an adapter, as the rest of a sentence that its name begins."""
        return None


def own_forward(kind: LayerKind, base: nn.Module) -> str | None:
    """Return why a layer's class with a forward of its own takes no adapter; None if its forward is a known one."""
    name = type(base).__name__
    if type(base).forward in kind.forwards:
        return None
    return f"is a {name} with a forward of its own, which may compute something else than {' or '.join(kind.names)}"
