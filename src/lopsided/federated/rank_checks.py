"""Ranks that clients may have, which a federation's configuration and a client's node are held to."""

from __future__ import annotations

from collections.abc import Sequence

from lopsided.errors import LopsidedError
from lopsided.runs.config import TrainConfig


def check_ranks(run: TrainConfig, ranks: Sequence[int], clients: int) -> None:
    """Raise unless these can be the ranks of a federation's clients.

    Args:
        run: says the method and the server's rank.
        ranks: one per client.
        clients: how many there are.

    Raises:
        LopsidedError: for another number of ranks than clients, a rank that is out of range, a method without rows of
            a sketch, or rows that no client trains.
    """
    if len(ranks) != clients:
        raise LopsidedError(
            f"ranks has {len(ranks)} numbers for {clients} clients; expected one per client; correct it"
        )
    for index, rank in enumerate(ranks):
        check_rank(run, rank, f"client {index}")
    if max(ranks) < run.rank:
        raise LopsidedError(
            f"no client trains rows {max(ranks) + 1} to {run.rank} of the sketch: ranks go up to {max(ranks)}, "
            f"expected the server's, {run.rank}, for one client at least; set rank to {max(ranks)}, or raise one"
        )


def check_rank(run: TrainConfig, rank: int, who: str) -> None:
    """Raise unless a client can have this rank.

    Args:
        run: says the method and the server's rank.
        who: has the rank, in words.

    Raises:
        LopsidedError: for a rank that is out of range, or a lower one than the server's with a method that trains both
            factors, or none.
    """
    if not 1 <= rank <= run.rank:
        raise LopsidedError(
            f"{who} has rank {rank}; expected 1 to the server's, {run.rank}; a client trains the first rows of the "
            "server's sketch: lower it, or raise rank"
        )
    method = run.resolve_method()
    if rank < run.rank and not (method.is_adapter and method.adapter_side.keeps_sketch):
        raise LopsidedError(
            f"{who} has rank {rank} below the server's, {run.rank}, and method {run.method!r} trains "
            f"{method.side.title}; expected one trained factor next to a shared sketch, whose rows are averaged one by "
            "one; take such a method, as rac_b, or equal ranks"
        )
