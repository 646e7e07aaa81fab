"""Which client trains how many rows of the shared sketch, and which federations may have unequal ranks.

Notation: the adapter has rank R and the sketch S of (R, d); client m trains the first r_m rows, so that

    ΔW_m = s·Σ_{j < r_m} B_m[:, j]·S[j],    s = alpha/R for everybody.

With s the same, a column of B means the same rank-one term to each client, and the average over those who trained
row j is the average of their terms. With alpha/r_m a low rank would count R/r_m times as much.

Rows of the first r_m are nested for any sketch, since all clients hold the one of rank R. Where both factors train
there is no shared row: mean(B_m[:, j])·mean(A_m[j]) is not the mean of the products, whoever trained it.
"""

from __future__ import annotations

from collections.abc import Mapping

from lopsided.errors import LopsidedError
from lopsided.federated.averaging import Shapes
from lopsided.federated.factors import row_axis
from lopsided.federated.federation import FederationConfig
from lopsided.federated.rank_checks import check_rank


def rank_of_client(config: FederationConfig, index: int, own: int | None) -> int | None:
    """Return how many rows of the sketch a client trains; None for all of them.

    Args:
        config: of the federation.
        index: of the client, from 0.
        own: the rank that the client's own node states; it goes before the server's list.

    Raises:
        LopsidedError: for a rank that the federation does not have, or a method that takes no unequal ranks.
    """
    rank = own
    if rank is None and config.ranks and index < len(config.ranks):
        rank = config.ranks[index]
    if rank is None:
        return None
    check_rank(config.run, rank, f"client {index}")
    return None if rank == config.run.rank else rank


def ranks_of_factors(rank: int, shapes: Shapes) -> Mapping[str, int]:
    """Return the ranks for `ClientUpdate` of a client of this rank: those of the factors that have more rows.

    Args:
        rank: of the client.
        shapes: of every tensor, whole.

    Example:
        >>> ranks_of_factors(2, {"q.lopsided_B.default.weight": (8, 4), "head.weight": (2, 8)})
        {'q.lopsided_B.default.weight': 2}
    """
    axes = {name: row_axis(name) for name in shapes}
    return {name: rank for name, axis in axes.items() if axis is not None and rank < shapes[name][axis]}


def told_rank(config: FederationConfig, told: object) -> int | None:
    """Return the rank that a client says it has trained, or None for the server's.

    Raises:
        LopsidedError: for anything else than a rank that the federation can have.
    """
    if told is None:
        return None
    if isinstance(told, bool) or not isinstance(told, int):
        raise LopsidedError(f"its rank is {told!r:.40}; expected a whole number")
    check_rank(config.run, told, "its answer")
    return told
