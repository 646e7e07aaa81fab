"""Which pairs of runs are compared, and what their similarities say."""

from __future__ import annotations

import numpy as np
import pytest

from lopsided.lab import Request, verdict
from lopsided.lab.experiments import factor_similarity
from lopsided.lab.experiments.factor_similarity import (
    CHANCE,
    EXPERIMENT,
    NOTHING_SAME,
    RANK,
    SAME_START,
    SAME_TASK,
    WIDTH,
    between_runs,
    by_domain,
    random_pairs,
)
from lopsided.lab.short_runs import ShortRun


def test_random_pairs_are_as_similar_as_chance():
    found = random_pairs()
    assert found.mean() == pytest.approx(CHANCE, abs=4 * found.std() / len(found) ** 0.5)


def test_groups_of_pairs_by_hand():
    names = [(task, seed) for task in ("a", "b") for seed in (0, 1)]
    pairs = {(x, y): float(10 * i + j) for i, x in enumerate(names) for j, y in enumerate(names) if x != y}
    # a0 is number 0, a1 is 1, b0 is 2, b1 is 3.
    assert by_domain(pairs, SAME_TASK).tolist() == [(1 + 10) / 2, (23 + 32) / 2]
    assert by_domain(pairs, SAME_START).tolist() == [(2 + 13) / 2, (20 + 31) / 2]
    assert by_domain(pairs, NOTHING_SAME).tolist() == [(3 + 12) / 2, (21 + 30) / 2]


def test_runs_are_compared_layer_by_layer():
    first, second = np.eye(6)[:, :2], np.eye(6)[:, 2:4]
    found = between_runs({("a", 0): [first, second], ("a", 1): [first, first]})
    assert found == {(("a", 0), ("a", 1)): 0.5, (("a", 1), ("a", 0)): 0.5}


@pytest.fixture
def pretend(monkeypatch):
    """Runs whose B is a function of the task and whose A is one of the seed, or the other way round."""

    def with_B_of(what: str):
        def factors(folder):
            task, seed = folder.name.split("-seed")
            keys = {"task": [ord(c) for c in task], "seed": [int(seed)]}
            draws = {name: np.random.RandomState(key) for name, key in keys.items()}
            other = "seed" if what == "task" else "task"
            B, A = draws[what].standard_normal((WIDTH, RANK)), draws[other].standard_normal((RANK, WIDTH))
            return {"layer.query": {"B": B, "A": A}, "layer.dense": {"B": A.T, "A": B.T}}

        def finish_all(asked, note):
            answers = {"validation": {"loss": np.ones(3)}}
            return [ShortRun(folder=config.out, trained=1, answers=answers) for config, _ in asked]

        monkeypatch.setattr(factor_similarity, "trained_factors", factors)
        monkeypatch.setattr(factor_similarity, "finish_all", finish_all)
        monkeypatch.setattr(factor_similarity, "load_rows", lambda config, **most: None)

    return with_B_of


def test_the_verdict_tells_tasks_from_starts(pretend):
    pretend("task")
    outcome = factor_similarity.run(Request(seeds=1))
    assert verdict(EXPERIMENT, outcome) == "reproduced"
    assert outcome.measured[0].value == pytest.approx(1 - CHANCE, abs=0.02)
    assert outcome.settings["seeds"] == 2
    pretend("seed")
    figures = factor_similarity.run(Request(seeds=2)).measured
    assert [e.judge(m).state for e, m in zip(EXPERIMENT.expected, figures)][:3] == ["fails", "fails", "fails"]
