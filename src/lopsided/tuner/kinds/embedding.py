"""Look-ups: an embedding of V tokens in d dimensions is the product of a one-hot row with Wᵀ, W of (d, V)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lopsided.tuner.forward.compute import Selected, Term, add_hidden
from lopsided.tuner.kinds.contract import LayerKind, own_forward


class EmbeddingKind(LayerKind):
    """Tokens of (...) -> (..., d_out). A selector A reads r tokens of the vocabulary, B = Sᵀ writes r dimensions.

    There is nothing to drop in a token, so dropout does not act here; stock PEFT's embeddings have none, either.
    """

    word: ClassVar[str] = "embedding"
    bases: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)
    names: ClassVar[tuple[str, ...]] = ("torch.nn.Embedding",)
    forwards: ClassVar[tuple[Callable[..., Any], ...]] = (nn.Embedding.forward,)
    drops: ClassVar[bool] = False
    one_hot: ClassVar[bool] = True

    def widths(self, base: Any) -> tuple[int, int]:
        """Return (d_out, d_in): the dimensions, and the tokens of the vocabulary."""
        return base.embedding_dim, base.num_embeddings

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the transpose."""
        return weight.T

    def stored(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Return the transpose."""
        return matrix.T

    def add(self, base: Any, out: Tensor, x: Tensor, term: Term, scaling: float, *, cast: bool) -> Tensor:
        """Return out + s·A[:, x]ᵀ·Bᵀ."""
        A = term.A
        if isinstance(A, Selected):
            hidden = (x.unsqueeze(-1) == A.indices).to(out.dtype)
        else:
            # As in the layer itself, a token of padding has no gradient.
            hidden = F.embedding(x, (A if cast else A.to(out.dtype)).T, padding_idx=base.padding_idx)
        return add_hidden(out, hidden, term.B, scaling, cast=cast)

    def inputs(self, base: Any, x: Tensor) -> Tensor:
        """Return the tokens: (...) -> (n,)."""
        return x.reshape(-1)

    def reading(self, base: Any) -> tuple[Any, ...]:
        """Return the size of the vocabulary."""
        return ("tokens", base.num_embeddings)

    def as_lora(self, base: Any, A: Tensor, B: Tensor) -> dict[str, Tensor]:
        """Return the factors under the names that stock PEFT has for them here."""
        return {"lora_embedding_A": A, "lora_embedding_B": B}

    def dtype(self, x: Tensor, out: Tensor) -> torch.dtype:
        """Return the output's dtype: tokens have none that counts."""
        return out.dtype

    def why_not(self, base: Any) -> str | None:
        """Return what about the layer forbids an adapter."""
        if base.max_norm is not None:
            return "is an Embedding with max_norm, which rescales its weight as it is looked up"
        return own_forward(self, base)
