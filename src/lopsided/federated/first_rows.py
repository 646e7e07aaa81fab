"""Training at a lower rank: the first rows of a shared sketch, and nothing next to the others.

Notation: the adapter has rank r and the sketch S of (r, d), of which a client trains r_m rows. Its scale s stays that
of rank r, so that a row means the same to everybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from lopsided.errors import LopsidedError
from lopsided.federated.factors import row_axis, trained_parameters


@contextmanager
def first_rows_train(model: nn.Module, rank: int, adapter: str = "default") -> Iterator[dict[str, int]]:
    """Inside the context, the gradients of trained factors are zero but for the first `rank` rows of the sketch.

    A row that starts at zero, as every row of a chain's single factor does, stays there to the bit, under AdamW too.
    The upload shrinks with the rank; factors, gradients and the optimizer's state are held whole.

    Args:
        model: with the adapter at the server's rank.
        rank: of this client; layers of a lower rank train all they have.

    Yields:
        the ranks for `ClientUpdate`, by name, of the factors that are cut.

    Raises:
        LopsidedError: for a rank below 1, or a model without factors of this library.
    """
    if rank < 1:
        raise LopsidedError(f"expected a rank of at least 1, got {rank}; raise it, or leave the client out")
    factors = {name: p for name, p in trained_parameters(model, adapter).items() if row_axis(name) is not None}
    if not factors:
        raise LopsidedError(
            f"{type(model).__name__} trains no factor next to a sketch; expected one for unequal ranks; take a method "
            "of lopsided.METHODS"
        )
    ranks = {name: rank for name, p in factors.items() if rank < p.shape[_axis(name)]}
    handles = [factors[name].register_hook(partial(_without_last_rows, rank, _axis(name))) for name in ranks]
    try:
        yield ranks
    finally:
        for handle in handles:
            handle.remove()


class FrozenRows(TrainerCallback):
    """Holds the rows that a client does not train to the bit, where they are not zero.

    Without a chain the rows of other clients come with the server's factor, and an optimizer changes them without any
    gradient: by weight decay, or by its state of a time when the client had a higher rank.

    Args:
        model: with the adapter at the server's rank.
        ranks: from `first_rows_train`.
    """

    def __init__(self, model: nn.Module, ranks: Mapping[str, int]) -> None:
        parameters = trained_parameters(model)
        self._rows = [
            parameters[name].detach().narrow(_axis(name), rank, parameters[name].shape[_axis(name)] - rank)
            for name, rank in ranks.items()
        ]
        self._before: list[Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the rows as they are before the optimizer's step."""
        self._before = [rows.clone() for rows in self._rows]

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the rows to what they were."""
        for rows, before in zip(self._rows, self._before):
            rows.copy_(before)


def cut_rows(tensors: Mapping[str, Tensor], ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """Return tensors with factors cut to their first rows of the sketch, as a client sends them.

    Raises:
        LopsidedError: for a rank of a tensor that is no factor.

    Example:
        >>> import torch
        >>> name = "query.lopsided_B.default.weight"
        >>> cut_rows({name: torch.ones(3, 4)}, {name: 2})[name].shape
        torch.Size([3, 2])
    """
    return {
        name: tensor.narrow(_axis(name), 0, ranks[name]).contiguous() if name in ranks else tensor
        for name, tensor in tensors.items()
    }


def _axis(name: str) -> int:
    axis = row_axis(name)
    if axis is None:
        raise LopsidedError(f"{name} has no rows of a sketch; expected a trained factor; leave its rank out")
    return axis


def _without_last_rows(rank: int, axis: int, gradient: Tensor) -> Tensor:
    kept = gradient.clone()
    kept.narrow(axis, rank, gradient.shape[axis] - rank).zero_()
    return kept
