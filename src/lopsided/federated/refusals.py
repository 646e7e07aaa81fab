"""Which answers of clients are not averaged, and why: each reason is one line for the log of rounds.

These are guards against faults (a diverged client, a damaged message, another model), not against an attack: a client
that sends a plausible factor with bad intent is averaged like any other.

Notation: the size of some tensors is the root mean square of all their entries, which does not depend on how many rows
of the sketch a client trains. The sizes of factors and of everything else are looked at apart: a factor starts at zero,
and a head does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from lopsided.errors import LopsidedError
from lopsided.federated.averaging import ClientUpdate, Shapes, cut_shape
from lopsided.federated.factors import difference_of_names, row_axis
from lopsided.finite import all_finite

# A factor's entry moves by about the learning rate in a step of AdamW, so that a client's size grows no faster than its
# number of steps, and mostly as its square root: 20 admits a client with 20 times the median's rows at the least, and
# one of K equal clients at the limit moves the average by 20/K of the median. What diverges passes it within few steps.
MULTIPLE = 20.0
# Weights and factors of models that work have sizes of 1e-3 to 1e1. Where there is no other client to compare with, or
# the others have not moved, this alone tells.
LARGEST_SIZE = 1e4
# Beyond any data set, and so small that float64 holds every product with a float32 number to the last bits.
MOST_EXAMPLES = 2**31
FACTORS, OTHERS = "its trained factors", "its heads and other weights"


@dataclass(frozen=True, kw_only=True)
class NormLimit:
    """The largest sizes that are taken in a round.

    Args:
        factors: of the trained factors.
        others: of heads, and of whatever else trains.
        where: how they came about, in words.
    """

    factors: float = LARGEST_SIZE
    others: float = LARGEST_SIZE
    where: str = "the limit for a single client"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A round's answers, sorted out.

    Args:
        taken: one per client, in the order in which they came.
        refused: why an answer is not taken, by client. A client that answered twice may be in both.
    """

    taken: tuple[ClientUpdate, ...]
    refused: dict[str, str]


def sort_out(updates: Iterable[ClientUpdate], shapes: Shapes, *, multiple: float | None = MULTIPLE) -> Answers:
    """Return the answers to average and the reasons against the others.

    Of a client that answered several times, the first answer that can be taken counts.

    Args:
        updates: in the order in which they came.
        shapes: of every tensor, whole.
        multiple: how many times the median size of the round is too large; None compares no client with others. With
            noise that must be so: what one client sends may not decide whether another one is averaged.

    Example:
        >>> shapes = {"w": (2,)}
        >>> good = ClientUpdate(client="a", examples=5, tensors={"w": torch.ones(2)})
        >>> bad = ClientUpdate(client="b", examples=5, tensors={"w": torch.tensor([1.0, torch.nan])})
        >>> answers = sort_out([good, bad], shapes)
        >>> [update.client for update in answers.taken], answers.refused
        (['a'], {'b': "'w' holds NaN or Inf"})
    """
    listed = list(updates)
    # Sizes mean something for whole and finite tensors alone, so these checks come first.
    sound = [update for update in listed if unsound(update, shapes) is None]
    limit = NormLimit() if multiple is None else norm_limit(sound, multiple=multiple)
    taken: dict[str, ClientUpdate] = {}
    refused: dict[str, str] = {}
    for update in listed:
        reason = refusal(update, shapes, norm_limit=limit)
        if reason is None and update.client in taken:
            reason = "answered twice; the first answer counts"
        if reason is None:
            taken[update.client] = update
        else:
            earlier = refused.get(update.client)
            refused[update.client] = reason if earlier in (None, reason) else f"{earlier}; {reason}"
    return Answers(taken=tuple(taken.values()), refused=refused)


def refusal(update: ClientUpdate, shapes: Shapes, *, norm_limit: NormLimit) -> str | None:
    """Return why an answer is not taken, in one line, or None.

    Args:
        shapes: of every tensor, whole.
        norm_limit: from the function of that name.
    """
    if reason := unsound(update, shapes):
        return reason
    for what, size, limit in zip((FACTORS, OTHERS), sizes(update), (norm_limit.factors, norm_limit.others)):
        if size > limit:
            return f"{what} have a root mean square of {size:.3g}, above {limit:.3g} ({norm_limit.where})"
    return None


def unsound(update: ClientUpdate, shapes: Shapes) -> str | None:
    """Return what is wrong with an answer by itself, or None; sizes aside."""
    count = update.examples
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= MOST_EXAMPLES:
        return f"it has {count!r:.40} examples, expected 1 to {MOST_EXAMPLES}"
    if problem := difference_of_names(update.tensors, shapes):
        return problem
    if foreign := sorted(set(update.ranks or {}) - set(shapes)):
        return f"it has a rank for {foreign[0]!r:.100}, which is none of the tensors"
    for name, shape in shapes.items():
        tensor = update.tensors[name]
        try:
            expected = cut_shape(name, tuple(shape), update.rank(name))
        except LopsidedError as error:
            return str(error)
        if tuple(tensor.shape) != expected:
            return f"{name!r} has shape {list(tensor.shape)}, expected {list(expected)}"
        if not tensor.is_floating_point():
            return f"{name!r} has dtype {tensor.dtype}, expected floating-point numbers"
        if not all_finite(tensor):
            return f"{name!r} holds NaN or Inf"
    return None


def norm_limit(updates: Sequence[ClientUpdate], *, multiple: float = MULTIPLE) -> NormLimit:
    """Return the largest sizes to take in a round: a multiple of the median over clients.

    For an even number of clients it is the lower median, so that one absurd answer of two is refused. A median of zero
    sets no limit below `LARGEST_SIZE`.

    Args:
        updates: finite, of the right names and shapes.
        multiple: of the median.

    Raises:
        LopsidedError: for a multiple that could refuse the median itself.
    """
    if not 1 <= multiple < math.inf:
        raise LopsidedError(f"expected a multiple of the median of at least 1, got {multiple}; raise it")
    # One answer per client: many copies of one would move the median.
    by_client = {update.client: sizes(update) for update in reversed(updates)}
    if len(by_client) < 2:
        return NormLimit()
    medians = [statistics.median_low(values) for values in zip(*by_client.values())]
    limits = [min(multiple * median, LARGEST_SIZE) if median > 0 else LARGEST_SIZE for median in medians]
    where = f"at most {multiple:g} times the round's median"
    return NormLimit(factors=limits[0], others=limits[1], where=where)


def sizes(update: ClientUpdate) -> tuple[float, float]:
    """Return the root mean squares of an answer's factors, and of everything else; 0 where there is none.

    Example:
        >>> B, head = torch.full((2, 2), 3.0), torch.tensor([4.0, -4.0])
        >>> sizes(ClientUpdate(client="a", examples=1, tensors={"q.lopsided_B.default.weight": B, "head.bias": head}))
        (3.0, 4.0)
    """
    squares, counts = [0.0, 0.0], [0, 0]
    for name, tensor in update.tensors.items():
        group = 0 if row_axis(name) is not None else 1
        # In float64, where the square of no float32 number overflows.
        squares[group] += float(tensor.to(torch.float64).square().sum())
        counts[group] += tensor.numel()
    factors, others = (math.sqrt(total / count) if count else 0.0 for total, count in zip(squares, counts))
    return factors, others
