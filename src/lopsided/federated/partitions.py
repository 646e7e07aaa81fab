"""Which rows each client has: even, with skewed labels, or by a group that rows belong to, as a domain or a file.

A partition is one list of row numbers per client, in ascending order; every row belongs to exactly one client. The same
arguments give the same partition on every machine.

Notation: client m gets a share q_mc of the rows of class c. With label skew, (q_1c, …, q_Mc) is drawn for each class
from a Dirichlet distribution of parameters (alpha, …, alpha): alpha → ∞ gives each client the same mix of classes, and
at alpha = 0.1 most clients have most rows of few classes.

Source:
    Label skew: Hsu et al. 2019, arXiv:1909.06335, here with the shares drawn per class.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lopsided.errors import LopsidedError, unknown

Partition = list[list[int]]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a partition knows of the rows that are to be shared out.

    Args:
        count: how many.
        labels: each row's class, where the rows have classes.
        groups: each row's domain, file or other group, where they have one.
    """

    count: int
    labels: Sequence[Hashable] | None = None
    groups: Sequence[Hashable] | None = None

    def __post_init__(self) -> None:
        for name in ("labels", "groups"):
            values = getattr(self, name)
            if values is not None and len(values) != self.count:
                raise LopsidedError(
                    f"expected one of {name} per row, got {len(values)} for {self.count} rows; pass all"
                )


def even(rows: int, clients: int, *, seed: int = 0) -> Partition:
    """Return shuffled rows in parts whose sizes differ by at most one.

    Raises:
        LopsidedError: for more clients than rows.

    Example:
        >>> even(5, 2)
        [[0, 1, 2], [3, 4]]
    """
    check_clients(rows, clients)
    return [sorted(map(int, part)) for part in np.array_split(np.random.RandomState(seed).permutation(rows), clients)]


def dirichlet(
    labels: Sequence[Hashable], clients: int, *, alpha: float, seed: int = 0, allow_missing: bool = False
) -> Partition:
    """Return parts with skewed labels.

    Args:
        labels: each row's class.
        alpha: the smaller, the more skewed.
        allow_missing: whether a client may be without a class.

    Raises:
        LopsidedError: for more clients than rows, an alpha that is not positive, a client without rows, or, unless
            `allow_missing`, a client that lacks a class.

    Example:
        >>> [len(part) for part in dirichlet([0, 1] * 50, 2, alpha=1e6)]
        [50, 50]
    """
    check_clients(len(labels), clients)
    if not 0 < alpha < math.inf:
        raise LopsidedError(f"alpha must be a positive number, got {alpha}; 0.1 is much skew and 100 hardly any")
    draw = np.random.RandomState(seed)
    parts: Partition = [[] for _ in range(clients)]
    # In the order in which classes first occur, so that nothing depends on how they sort or hash.
    for name in dict.fromkeys(labels):
        own = draw.permutation([row for row, label in enumerate(labels) if label == name])
        shares = draw.dirichlet(np.full(clients, alpha))
        # A tiny alpha can underflow every share.
        if not np.isfinite(shares).all():
            raise LopsidedError(f"alpha={alpha} is too small to draw shares with; expected 1e-3 or more; raise it")
        cuts = np.round(np.cumsum(shares)[:-1] * len(own)).astype(int)
        for part, rows in zip(parts, np.split(own, cuts)):
            part.extend(map(int, rows))
    parts = [sorted(part) for part in parts]
    if empty := [m for m, part in enumerate(parts) if not part]:
        raise LopsidedError(
            f"client {empty[0]} has no rows (alpha={alpha:g}, seed={seed}); expected some for each of {clients} "
            "clients; raise alpha, lower the clients, or take another seed"
        )
    if not allow_missing:
        check_classes(parts, labels)
    return parts


def by_group(groups: Sequence[Hashable], clients: int | None = None) -> Partition:
    """Return whole groups of rows, one per client or, with fewer clients, several.

    Then groups are handed out from the largest on, each to the client with the fewest rows so far.

    Args:
        groups: each row's group, as its domain or its file.
        clients: None takes one per group, in the order in which groups first occur.

    Raises:
        LopsidedError: for more clients than groups, or no rows.

    Example:
        >>> by_group(["film", "news", "film", "shop"])
        [[0, 2], [1], [3]]
        >>> by_group(["film", "news", "film", "shop"], clients=2)
        [[0, 2], [1, 3]]
    """
    counts = Counter(groups)
    clients = len(counts) if clients is None else clients
    check_clients(len(groups), clients)
    if clients > len(counts):
        listed = ", ".join(map(str, list(counts)[:5]))
        raise LopsidedError(
            f"{clients} clients, and the rows belong to {len(counts)} groups ({listed:.200}); expected at most as many "
            "clients as groups; lower the clients, or take another partition"
        )
    owners: dict[Hashable, int] = {}
    if clients == len(counts):
        owners = {group: client for client, group in enumerate(counts)}
    else:
        held = [0] * clients
        # `most_common` keeps the order of first occurrence among groups of one size.
        for group, size in counts.most_common():
            owners[group] = held.index(min(held))
            held[owners[group]] += size
    parts: Partition = [[] for _ in range(clients)]
    for row, group in enumerate(groups):
        parts[owners[group]].append(row)
    return parts


def check_clients(rows: int, clients: int) -> None:
    """Raise unless every client can have a row.

    Raises:
        LopsidedError: naming both numbers.
    """
    if not 1 <= clients <= rows:
        raise LopsidedError(f"{clients} clients for {rows} rows; expected 1 to {rows}; change the number of clients")


def check_classes(parts: Partition, labels: Sequence[Hashable]) -> None:
    """Raise if a client lacks a class that others have: its model would unlearn that class in every round.

    Raises:
        LopsidedError: naming the client and the class.
    """
    classes = list(dict.fromkeys(labels))
    for client, part in enumerate(parts):
        present = {labels[row] for row in part}
        if missing := [name for name in classes if name not in present]:
            listed = ", ".join(map(str, missing[:5]))
            raise LopsidedError(
                f"client {client} has no row of {len(missing)} of {len(classes)} classes ({listed:.200}); expected all "
                "of them; raise alpha, lower the clients, take another seed, or allow missing classes"
            )


# -- by name -----------------------------------------------------------------------------------------------------


def _even(rows: Rows, clients: int, alpha: float, seed: int) -> Partition:
    return even(rows.count, clients, seed=seed)


def _dirichlet(rows: Rows, clients: int, alpha: float, seed: int) -> Partition:
    if rows.labels is None:
        raise LopsidedError("partition 'dirichlet' needs rows with classes, and these have none; take 'even'")
    return dirichlet(rows.labels, clients, alpha=alpha, seed=seed, allow_missing=True)


def _by_group(rows: Rows, clients: int, alpha: float, seed: int) -> Partition:
    if rows.groups is None:
        raise LopsidedError("this partition needs rows of several domains or files, and these are of one; take 'even'")
    return by_group(rows.groups, clients)


PARTITIONS: dict[str, Callable[[Rows, int, float, int], Partition]] = {
    "even": _even,
    "dirichlet": _dirichlet,
    "domain": _by_group,
    "file": _by_group,
}


def partition(
    name: str, rows: Rows, clients: int, *, alpha: float = 1.0, seed: int = 0, allow_missing: bool = False
) -> Partition:
    """Return the rows of each client, by a partition's name in `PARTITIONS`.

    Args:
        name: "even", "dirichlet" (of labels), "domain" or "file" (of groups).
        alpha: of "dirichlet".
        seed: of "even" and "dirichlet".
        allow_missing: whether a client may be without a class.

    Raises:
        LopsidedError: for an unknown name, rows without the labels or groups that the partition needs, or as the
            partition itself does.

    Example:
        >>> partition("domain", Rows(count=3, groups=["film", "news", "film"]), 2)
        [[0, 2], [1]]
    """
    if name not in PARTITIONS:
        raise LopsidedError(unknown("partition", name, PARTITIONS))
    parts = PARTITIONS[name](rows, clients, alpha, seed)
    if rows.labels is not None and not allow_missing:
        check_classes(parts, rows.labels)
    return parts
