"""Every row belongs to one client, the same one on every machine, and what no partition can do is refused by name."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopsided import LopsidedError
from lopsided.federated.partitions import PARTITIONS, Rows, by_group, check_classes, dirichlet, even, partition

LABELS = [row % 10 for row in range(400)]
GROUPS = ["film", "news", "shop", "news", "news"]


def is_partition(parts, rows: int) -> bool:
    return sorted(itertools.chain(*parts)) == list(range(rows)) and all(part == sorted(part) for part in parts)


@given(rows=st.integers(1, 60), data=st.data(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_even_parts_differ_by_one_row_at_most(rows, data, seed):
    clients = data.draw(st.integers(1, rows))
    parts = even(rows, clients, seed=seed)
    assert is_partition(parts, rows)
    assert len(parts) == clients
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(groups=st.lists(st.sampled_from("abcde"), min_size=1, max_size=40), data=st.data())
@settings(max_examples=40, deadline=None)
def test_groups_stay_whole(groups, data):
    clients = data.draw(st.integers(1, len(set(groups))))
    parts = by_group(groups, clients)
    assert is_partition(parts, len(groups))
    assert len(parts) == clients
    assert all(parts)
    owners = [{groups[row] for row in part} for part in parts]
    assert sum(map(len, owners)) == len(set(groups))


def test_skew_falls_with_alpha():
    def largest_share(alpha):
        parts = dirichlet(LABELS, 4, alpha=alpha, seed=1, allow_missing=True)
        assert is_partition(parts, len(LABELS))
        # Over classes, the rows of the client that has most of it.
        return sum(max(sum(LABELS[row] == c for row in part) for part in parts) for c in range(10)) / len(LABELS)

    shares = [largest_share(alpha) for alpha in (0.1, 1.0, 1000.0)]
    assert shares[0] > 0.75
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.3


def test_a_partition_is_a_function_of_its_arguments():
    assert dirichlet(LABELS, 4, alpha=3.0, seed=1) == dirichlet(LABELS, 4, alpha=3.0, seed=1)
    assert dirichlet(LABELS, 4, alpha=3.0, seed=1) != dirichlet(LABELS, 4, alpha=3.0, seed=2)
    # By first occurrence, so that the names of the classes change nothing.
    named = [f"{['zebra', 'ape', 'cow'][c % 3]} {c}" for c in LABELS]
    assert dirichlet(named, 4, alpha=3.0, seed=1) == dirichlet(LABELS, 4, alpha=3.0, seed=1)
    assert even(20, 3, seed=1) != even(20, 3, seed=2)


def test_one_client_has_everything():
    for name in PARTITIONS:
        rows = Rows(count=5, labels=[0, 1, 0, 1, 0], groups=GROUPS)
        assert partition(name, rows, 1) == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: even(3, 4), "4 clients for 3 rows; expected 1 to 3"),
        (lambda: even(3, 0), "0 clients for 3 rows"),
        (lambda: dirichlet([0, 1], 3, alpha=1.0), "3 clients for 2 rows"),
        (lambda: dirichlet(LABELS, 3, alpha=0.0), "alpha must be a positive number, got 0"),
        (lambda: dirichlet(LABELS, 3, alpha=float("nan")), "alpha must be a positive number, got nan"),
        (lambda: dirichlet(LABELS, 3, alpha=1e-300), "alpha=1e-300 is too small|has no rows"),
        (lambda: dirichlet(LABELS, 40, alpha=0.01, allow_missing=True), r"client \d+ has no rows"),
        (lambda: dirichlet(LABELS, 4, alpha=0.05, seed=1), r"client \d has no row of \d of 10 classes \("),
        (lambda: by_group(GROUPS, 4), r"4 clients, and the rows belong to 3 groups \(film, news, shop\)"),
        (lambda: by_group([], None), "0 clients for 0 rows"),
        (lambda: check_classes([[0], [1]], ["spam", "ham"]), r"client 0 has no row of 1 of 2 classes \(ham\)"),
        (lambda: partition("evn", Rows(count=3), 2), "unknown partition 'evn'.*did you mean 'even'"),
        (lambda: partition("domain", Rows(count=3), 2), "needs rows of several domains or files"),
        (lambda: partition("dirichlet", Rows(count=3), 2), "needs rows with classes"),
        (lambda: partition("domain", Rows(count=2, labels=[0, 1], groups=["a", "b"]), 2), "client 0 has no row of 1"),
        (lambda: Rows(count=3, labels=[0]), "expected one of labels per row, got 1 for 3 rows"),
    ],
)
def test_what_no_partition_can_do_is_refused_by_name(make, message):
    with pytest.raises(LopsidedError, match=message):
        make()


def test_missing_classes_are_for_the_caller_to_allow():
    rows = Rows(count=2, labels=[0, 1], groups=["a", "b"])
    assert partition("domain", rows, 2, allow_missing=True) == [[0], [1]]
