"""B alone at twice the rank: equal counts, the search for rates, and the difference with its interval."""

from __future__ import annotations

import numpy as np
import pytest

from lopsided.lab import Request, verdict
from lopsided.lab.experiments import double_rank
from lopsided.lab.experiments.double_rank import (
    EXPERIMENT,
    RANKS,
    RATES,
    SEARCH_SEED,
    best_rates,
    mean_over_tasks,
    tasks,
)
from lopsided.lab.short_runs import RATE, ShortRun
from lopsided.method import method_named
from lopsided.models.skeleton import skeleton
from lopsided.theory import layer_dims


def test_both_train_as_many_numbers():
    layers = layer_dims(skeleton("embedded"))
    counts = {
        name: sum(method_named(name).trained_numbers(layer.d_out, layer.d_in, r) for layer in layers)
        for name, r in RANKS.items()
    }
    assert counts["lora"] == counts["asym_b"] == 16 * sum(layer.d_in for layer in layers)


def test_the_best_rate_is_the_one_with_the_lowest_loss():
    losses = {("lora", 1e-3): 0.5, ("lora", 3e-3): 0.6, ("asym_b", 1e-3): 0.7, ("asym_b", 3e-3): 0.4}
    assert best_rates(losses) == {"lora": 1e-3, "asym_b": 3e-3}


def test_trec_is_a_task_where_its_folder_is(tmp_path, monkeypatch):
    monkeypatch.delenv("LOPSIDED_DATA", raising=False)
    assert [domain.name for domain in tasks()] == ["movie"]
    monkeypatch.setenv("LOPSIDED_DATA", str(tmp_path))
    assert [domain.name for domain in tasks()] == ["movie"]
    (tmp_path / "trec").mkdir()
    assert [domain.name for domain in tasks()] == ["movie", "trec"]
    assert tasks()[1].fields == {"task": str(tmp_path / "trec"), "label": "coarse_label"}


def test_tasks_have_equal_weight():
    found = mean_over_tasks([np.full((2, 10), 1.0), np.full((2, 1000), 4.0)])
    assert found.value == 2.5
    assert found.interval == (2.5, 2.5)


@pytest.fixture
def pretend(monkeypatch):
    """Runs that answer a share of 1000 rows right, by method; keeps the configurations that were asked for."""
    asked_for = []

    def answering(right: dict[str, float]):
        def finish_all(asked, note):
            runs = []
            for config, _ in asked:
                asked_for.append(config)
                prediction = (np.arange(1000) < 1000 * right[config.method]).astype(int)
                # In the search, B-only likes the high rate, and LoRA the low one.
                loss = config.lr if config.method == "lora" else 1 - config.lr
                rows = {"label": np.ones(1000, dtype=int), "prediction": prediction, "loss": np.full(1000, loss)}
                answers = {"validation": rows, "test": rows}
                runs.append(ShortRun(folder=config.out, trained=1, answers=answers))
            return runs

        monkeypatch.setattr(double_rank, "finish_all", finish_all)
        monkeypatch.setattr(double_rank, "load_rows", lambda config, **most: None)
        return asked_for

    return answering


def test_quick_takes_one_rate_for_both(pretend, monkeypatch):
    monkeypatch.delenv("LOPSIDED_DATA", raising=False)
    asked = pretend({"lora": 0.70, "asym_b": 0.75})
    outcome = double_rank.run(Request(seeds=2))
    assert verdict(EXPERIMENT, outcome) == "reproduced"
    assert outcome.measured[0].value == pytest.approx(5.0)
    assert {(c.method, c.rank, c.lr) for c in asked} == {(name, r, RATE) for name, r in RANKS.items()}
    assert len({c.out for c in asked}) == len(asked) == 4


def test_full_searches_on_a_seed_of_its_own(pretend, tmp_path, monkeypatch):
    (tmp_path / "trec").mkdir()
    monkeypatch.setenv("LOPSIDED_DATA", str(tmp_path))
    asked = pretend({"lora": 0.80, "asym_b": 0.70})
    outcome = double_rank.run(Request(size="full", seeds=2))
    assert verdict(EXPERIMENT, outcome) == "not reproduced"
    assert outcome.measured[0].value == pytest.approx(-10.0)
    search, final = ([c for c in asked if (c.seed == SEARCH_SEED) == of] for of in (True, False))
    assert len(search) == 2 * 2 * len(RATES)
    assert not any(c.test for c in search)
    assert {(c.method, c.lr) for c in final} == {("lora", 1e-3), ("asym_b", 3e-3)}
    assert len(final) == 2 * 2 * 2
    assert all(c.test for c in final)
