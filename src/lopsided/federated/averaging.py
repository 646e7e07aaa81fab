"""The average of what clients send, which is exact next to a shared sketch.

Notation: client m has n_m examples and sends B_m. With one A, Σ n_m·(B_m·A) / Σ n_m = (Σ n_m·B_m / Σ n_m)·A, so that
the average of the factor is that of ΔW. With A_m of their own, or where both factors train, the two differ.

A client of lower rank r_m trains the first r_m rows of the shared sketch, and sends the columns B[:, :r_m] (or the rows
A[:r_m]). Row j is averaged over those who trained it, M_j = {m : r_m > j}:

    B[:, j] = Σ_{m in M_j} n_m·B_m[:, j] / Σ_{m in M_j} n_m

This is unbiased where the loss does not couple the rows and the clients in M_j are like the others; a sum in which
absent rows count as zeros shrinks row j by the share of M_j every round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.federated.factors import check_names, row_axis

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class ClientUpdate:
    """What one client sends after its local epochs.

    Args:
        client: its name, unique in a round.
        examples: how many rows it has trained on, its weight in the average.
        tensors: by live names, as `trained_tensors` gives them, or cut to the first rows of the sketch.
        ranks: for each factor that is cut, how many rows are left; None where none is.
    """

    client: str
    examples: int
    tensors: Mapping[str, Tensor]
    ranks: Mapping[str, int] | None = None

    def rank(self, name: str) -> int | None:
        """Return how many rows of the sketch a tensor is cut to, or None for a whole one."""
        return (self.ranks or {}).get(name)


def cut_shape(name: str, shape: tuple[int, ...], rank: int | None) -> tuple[int, ...]:
    """Return the shape of a trained factor that is cut to the first rows of the sketch.

    Args:
        rank: how many; None leaves the factor whole.

    Raises:
        LopsidedError: for a tensor that is no factor, or a rank that it does not have.

    Example:
        >>> cut_shape("query.lopsided_B.default.weight", (8, 4), 3)
        (8, 3)
    """
    if rank is None:
        return shape
    axis = row_axis(name)
    if axis is None:
        raise LopsidedError(f"{name} has no rows of a sketch; expected ranks for trained factors alone; leave it out")
    if not 1 <= rank <= shape[axis]:
        raise LopsidedError(f"{name}: expected a rank from 1 to {shape[axis]}, got {rank}; train rows that it has")
    return (*shape[:axis], rank, *shape[axis + 1 :])


def average(
    updates: Sequence[ClientUpdate], shapes: Shapes, start: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the average of updates, weighted by examples, and by row where ranks differ.

    Sums are in float64 and in the order of the clients' names, so that the bits do not depend on who answered first.
    The average of one client is what it sent.

    Args:
        updates: one per client; see `lopsided.federated.refusals` for what must not get here.
        shapes: of every tensor, whole.
        start: whole tensors with the rows that stay where nobody trained them; zeros if None, as a chain starts.

    Shapes:
        -> as `shapes` says, float32.

    Raises:
        LopsidedError: without updates, for two of one client, no examples, or tensors of other names or shapes.

    Example:
        >>> name, B = "q.lopsided_B.default.weight", torch.ones(1, 2)
        >>> whole = ClientUpdate(client="a", examples=1, tensors={name: B})
        >>> cut = ClientUpdate(client="b", examples=3, tensors={name: 5 * B[:, :1]}, ranks={name: 1})
        >>> average([whole, cut], {name: (1, 2)})[name]
        tensor([[4., 1.]])
    """
    if not updates:
        raise LopsidedError("no update to average; expected one at least; wait for more clients, or lower the minimum")
    ordered = sorted(updates, key=lambda update: update.client)
    names = [update.client for update in ordered]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LopsidedError(f"client {twice[0]!r} has two updates; expected one per client; keep the first")
    for update in ordered:
        _check(update, shapes)
    if start is not None:
        check_names(start, shapes, "start")
    return {
        name: _average_of(name, ordered, shape, None if start is None else start[name])
        for name, shape in shapes.items()
    }


def _check(update: ClientUpdate, shapes: Shapes) -> None:
    if update.examples <= 0:
        raise LopsidedError(f"client {update.client!r}: expected examples, got {update.examples}; leave it out")
    check_names(update.tensors, shapes, f"client {update.client!r}")
    for name, shape in shapes.items():
        expected, got = cut_shape(name, shape, update.rank(name)), tuple(update.tensors[name].shape)
        if got != expected:
            raise LopsidedError(
                f"client {update.client!r}: {name} has shape {list(got)}, expected {list(expected)}; leave it out"
            )


def _average_of(name: str, ordered: Sequence[ClientUpdate], shape: tuple[int, ...], start: Tensor | None) -> Tensor:
    """Return the average of one tensor."""
    total = torch.zeros(shape, dtype=torch.float64)
    # A tensor whose rows are those of no sketch has one weight, which the first axis repeats.
    axis = row_axis(name) or 0
    weight = torch.zeros([size if at == axis else 1 for at, size in enumerate(shape)], dtype=torch.float64)
    for update in ordered:
        rank = update.rank(name)
        rows = (slice(None),) * axis + (slice(rank),) if shape else ()
        # In float64 the product with a whole number below 2^29 is exact.
        total[rows] += update.examples * update.tensors[name].to("cpu", torch.float64)
        weight[rows] += update.examples
    mean = torch.where(weight > 0, total / weight.clamp(min=1), 0.0 if start is None else start.to(torch.float64))
    return mean.to(torch.float32)
