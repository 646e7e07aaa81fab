"""Choices of the frozen factor: what is compared, and how a spread is judged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import studentized_range

from lopsided import METHODS
from lopsided.lab import Request, verdict
from lopsided.lab.experiments import init_choices
from lopsided.lab.experiments.init_choices import (
    EXPERIMENT,
    RANDOM,
    SELECTORS,
    SINGULAR,
    SKETCHES,
    frozen_methods,
    mean_of,
    spread,
    spread_of,
)
from lopsided.lab.short_runs import ShortRun


def test_the_spread_of_equal_choices_is_a_studentized_range(monkeypatch):
    """Best less worst of three means of three, in standard deviations: the studentized range with 6 degrees, by √3."""
    draw = np.random.RandomState(0)
    monkeypatch.setattr(init_choices, "DRAWS", 2)
    found = [spread({c: draw.standard_normal(3) for c in "abc"}).value for _ in range(4000)]
    for q in (0.5, 0.95):
        assert np.quantile(found, q) == pytest.approx(studentized_range.ppf(q, 3, 6) / 3**0.5, rel=0.06)
    assert 2.4 < np.quantile(found, 0.95) < 2.6


def test_the_spread_by_hand():
    # Means 1, 2 and 4, and a variance of 2 within each.
    scores = {"a": np.array([0.0, 2]), "b": np.array([1.0, 3]), "c": np.array([3.0, 5])}
    found = spread(scores)
    assert found.value == pytest.approx(3 / 2**0.5)
    assert found.interval[0] < found.value < found.interval[1]
    # Seeds that do not differ have no deviation to measure in.
    same = spread({"a": np.ones(2), "b": np.zeros(2)})
    assert np.isnan(same.value)
    assert "do not differ" in same.why


def test_the_interval_of_a_spread_narrows_with_the_seeds():
    means = np.array([0.0, 1.0, 2.0])
    few, many = (spread_of(means, 1.0, seeds=seeds) for seeds in (3, 300))
    assert few.value == many.value == 2.0
    assert few.interval[1] - few.interval[0] > 5 * (many.interval[1] - many.interval[0])
    assert many.interval == pytest.approx((2.0, 2.0), abs=0.3)


def test_every_choice_trains_b_under_a_name_of_its_own():
    made = frozen_methods()
    assert set(made) == {*RANDOM, *SINGULAR, *SELECTORS}
    assert {method.train for method in made.values()} == {"B"}
    assert len({method.name for method in made.values()}) == len(made)
    assert not {method.name for method in made.values()} & set(METHODS)


def test_choices_differ_and_have_the_sizes_that_the_notation_says():
    W0 = np.random.RandomState(3).standard_normal((32, 32)).astype(np.float32)
    draws = {choice: sketch.sample(4, 32, seed=1, link=0, weight=W0) for choice, sketch in SKETCHES.items()}
    for i, (first, A) in enumerate(draws.items()):
        assert not any(np.allclose(A, other) for other in list(draws.values())[i + 1 :]), first
    energy = {choice: float(np.linalg.norm(A @ W0.T)) for choice, A in draws.items()}
    assert max(energy, key=energy.get) == "singular, top"
    assert min((c for c in energy if c != "Kaiming"), key=energy.get) == "singular, last"


def test_answers_are_averaged_choice_by_choice():
    right = {"a": np.array([[0.0, 100], [100, 100]]), "b": np.array([[100.0, 100], [0, 100]])}
    assert mean_of(right, ("a", "b")).tolist() == [[50.0, 100.0], [50.0, 100.0]]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        # No choice is worse, and three seeds are too few to tell how far the random draws differ.
        ({}, "undecided"),
        # A good draw among bad ones, all of them worse than LoRA, and selectors worse still.
        ({"lab_orthonormal": 0.6, "lab_gaussian": 0.5, "lab_kaiming": 0.5, "window": 0.4, "columns": 0.4}, "not"),
    ],
)
def test_the_verdict_follows_from_the_answers(monkeypatch, shares, expected):
    registered = []

    def finish_all(asked, note):
        draw, runs = np.random.RandomState(0), []
        for config, _ in asked:
            registered.append(config.method in METHODS)
            share = shares.get(config.method, shares.get(config.method.removeprefix("lab_"), 0.7))
            prediction = (draw.permutation(400) < 400 * (share + 0.01 * config.seed)).astype(int)
            rows = {"label": np.ones(400, dtype=int), "prediction": prediction, "loss": np.ones(400)}
            runs.append(ShortRun(folder=config.out, trained=1, answers={"test": rows}))
        return runs

    monkeypatch.setattr(init_choices, "finish_all", finish_all)
    monkeypatch.setattr(init_choices, "load_rows", lambda config, **most: None)
    before = dict(METHODS)
    outcome = init_choices.run(Request(seeds=3))
    assert before == METHODS
    assert all(registered)
    assert len(registered) == 3 * 8
    assert verdict(EXPERIMENT, outcome).split()[0] == expected
