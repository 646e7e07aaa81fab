"""Whether bounds order methods as gaps do: ranks, their interval, and the verdict."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from lopsided import METHODS
from lopsided.lab import Request, verdict
from lopsided.lab.experiments import bounds_vs_gap
from lopsided.lab.experiments.bounds_vs_gap import (
    EXPERIMENT,
    FULL,
    QUICK,
    chance_of_more,
    group,
    learning_rate,
)
from lopsided.lab.short_runs import ShortRun
from lopsided.method import method_named
from lopsided.runs.measured_bound import RunBound
from lopsided.theory import generalization_bound


def test_the_chance_is_that_of_all_orders():
    x, y = np.arange(5.0), np.array([0.0, 2, 1, 4, 3])
    observed = spearmanr(x, y).statistic
    orders = [spearmanr(x, y[list(order)]).statistic for order in itertools.permutations(range(5))]
    assert chance_of_more(x, y) == pytest.approx(np.mean(np.array(orders) >= observed - 1e-9), abs=0.015)


def test_methods_of_the_comparison():
    assert set(QUICK) < set(FULL)
    # PaCA's runs would be random-cLA's.
    assert set(FULL) == {name for name, method in METHODS.items() if method.compared} - {"head", "paca"}
    assert METHODS["paca"].sketch == METHODS["rcla"].sketch
    assert [learning_rate(name) for name in ("full", "lora_plus", "lora", "c3la")] == [3e-4, 3e-4, 3e-3, 3e-3]
    assert [group(METHODS[name]) for name in ("full", "cola", "cla")] == ["all weights", "A and B, chained", "B"]


@pytest.mark.parametrize(("sign", "scale", "expected"), [(1, 1e-3, "reproduced"), (-1, 1e3, "not reproduced")])
def test_the_verdict_follows_from_gaps_and_bounds(monkeypatch, sign, scale, expected):
    def finish_all(asked, note):
        return [ShortRun(folder=config.out, trained=1, answers={}) for config, _ in asked]

    def bound_of_run(folder):
        name, seed = folder.name.split("-seed")
        links = None if method_named(name).chain is None else 4
        # Widths that differ, so that no two of the methods have equal bounds.
        bound = generalization_bound([(30, 70)], name, 4, 128, 0.5 + 0.01 * FULL.index(name), links=links)
        measured = scale * bound.value**sign
        return RunBound(folder=folder, seed=int(seed), measured=measured, se=0.1 * measured, bound=bound)

    monkeypatch.setattr(bounds_vs_gap, "finish_all", finish_all)
    monkeypatch.setattr(bounds_vs_gap, "load_rows", lambda config, **most: None)
    monkeypatch.setattr(bounds_vs_gap, "bound_of_run", bound_of_run)
    outcome = bounds_vs_gap.run(Request(size="full", seeds=2))
    assert outcome.measured[0].value == pytest.approx(sign)
    assert verdict(EXPERIMENT, outcome) == expected
    order = outcome.plots[0].lines[0]
    assert sorted(order.x) == sorted(FULL)
    assert order.y == sorted(order.y, reverse=sign < 0)
