"""Turns: each piece once per round, in an order that changes, and garbage collection as it was."""

from __future__ import annotations

import gc

import pytest

from lopsided.stats import Median, median_interval, median_ratio
from lopsided.study.turns import take_turns, wall_ms


def test_each_piece_takes_its_turn_in_each_round():
    order: list[str] = []
    noted: list[int] = []

    def work(name):
        def once():
            order.append(name)
            assert not gc.isenabled()
            return float(len(order))

        return once

    taken = take_turns({n: work(n) for n in "abc"}, rounds=6, warmup=2, seed=1, note=lambda: noted.append(1))
    assert gc.isenabled()
    assert len(noted) == 8
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    # The first two rounds are thrown away.
    assert sorted(figure for figures in taken.values() for figure in figures) == [float(n) for n in range(7, 25)]
    again: list[str] = list(order)
    order.clear()
    take_turns({n: work(n) for n in "abc"}, rounds=6, warmup=2, seed=1)
    assert order == again


def test_a_piece_that_fails_leaves_the_collector_on():
    with pytest.raises(ZeroDivisionError):
        take_turns({"a": lambda: 1 / 0}, rounds=1)
    assert gc.isenabled()
    assert wall_ms(lambda: None) >= 0


def test_a_ratio_is_that_of_each_round():
    # The whole second round was slow.
    assert median_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Median(value=2.0, low=2.0, high=2.0)
    spread = median_interval([float(n) for n in range(1, 21)])
    # Of twenty values, the sixth and the fifteenth.
    assert (spread.value, spread.low, spread.high) == (10.5, 6.0, 15.0)
