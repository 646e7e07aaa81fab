"""The Pareto front: of all methods, and of those that a reader shows."""

from __future__ import annotations

import itertools

import pytest

from lopsided.study.columns import Column
from lopsided.study.comparison import board_of_comparison
from lopsided.study.front import contenders, front
from tests.study.made_runs import made_run, right, written

# Trained numbers, and how many of 100 rows are right.
PLACES = {
    **{"lora": (1, 50), "cla": (2, 70), "rcla": (2, 60), "c3la": (3, 70), "full": (4, 90), "paca": (2, 70)},
    **{"lora_fa": (5, None), "head": (1, 10), "asym_b": (0, 20)},
}


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    runs = {}
    for method, (cost, score) in PLACES.items():
        runs[method] = [made_run(method, right(first=score or 0), trained_parameters=cost)]
        if score is None:
            runs[method][0].record["metrics"]["test"]["score"] = None
    return board_of_comparison(written(tmp_path_factory.mktemp("front"), runs), {})


@pytest.fixture(scope="module")
def axes(board) -> tuple[Column, Column]:
    return board.columns[0], board.columns[1]


def test_the_front_is_what_no_other_beats(board, axes):
    competing = contenders(board.rows, *axes)
    # Of equal methods both; never the floor, nor what has no score, nor what has no place on a logarithmic axis.
    assert front(competing) == ["lora", "cla", "paca", "full"]
    assert [contender.label for contender in competing] == ["lora", "cla", "paca", "rcla", "c3la", "full"]
    beaten = {contender.label: contender.beaten_by for contender in competing}
    assert (beaten["rcla"], beaten["c3la"]) == (("cla", "paca"), ("cla", "paca"))


def test_the_front_of_the_methods_shown_is_those_whom_none_of_them_beats(board, axes):
    """The lookup that the page does when methods are hidden, against the front of these methods alone."""
    competing = contenders(board.rows, *axes)
    labels = [row.label for row in board.rows]
    for hidden in itertools.chain.from_iterable(itertools.combinations(labels, n) for n in range(4)):
        looked_up = [
            contender.label
            for contender in competing
            if contender.label not in hidden and set(contender.beaten_by) <= set(hidden)
        ]
        assert looked_up == front(contenders([row for row in board.rows if row.label not in hidden], *axes))


def test_directions_are_the_columns(board, axes):
    x, y = axes
    assert front(contenders(board.rows, y, x)) == ["full", "cla", "paca", "lora"]
    # The same column twice: the best alone.
    assert front(contenders(board.rows, y, y)) == ["full"]
