"""The rule of decisions, simulated: a few studies here, and what the whole simulation came to."""

import json

import numpy as np
import pytest

from benchmarks import decision
from benchmarks.decision import ENOUGH, HEAVY_BELOW, RESULT, Outcome, World, outcome, study, worlds


@pytest.mark.parametrize(
    "world",
    [
        World(methods=2, seeds=1, rows=300, behind=1.0),
        World(methods=5, seeds=3, rows=300, behind=3.0),
        World(methods=3, seeds=3, rows=300, behind=1.0, seed_sd=3.0),
        World(methods=3, seeds=3, rows=300, behind=3.0, unstable=6.0),
    ],
    ids=["one seed", "several seeds", "heavy seed noise", "an unstable one"],
)
def test_the_bound_holds(world):
    # 95 % of 60, and 1 in 1,000 by chance below.
    assert outcome(world, 60).held >= 0.86


def test_methods_below_the_floor_are_not_named_and_those_above_are():
    below = World(seeds=3, rows=300, floor=-1.0)
    assert outcome(below, 40).below_floor == 0
    assert outcome(World(methods=2, seeds=3, rows=1000, behind=1.0, floor=10.0), 20).chose > 0.8


def test_the_true_scores_are_those_of_many_rows():
    world = World(methods=2, seeds=200, rows=300, behind=3.0, floor=5.0)
    scores, truth = study(world, np.random.default_rng(0))
    assert truth.tolist() == pytest.approx([80, 77, 75])
    # The rows are shared, so that differences are sharper than scores.
    means = scores.means
    assert means[:2] - means[2] == pytest.approx(truth[:2] - truth[2], abs=2.0)
    assert scores.values[0].std() == pytest.approx(np.hypot(0.5, 100 * (0.06 / 300) ** 0.5), rel=0.5)


def test_it_is_written_and_printed(tmp_path, capsys, monkeypatch):
    few = [World(methods=2, rows=50), World(methods=2, floor=9.0, rows=50)]
    monkeypatch.setattr(decision, "worlds", lambda: iter(few))
    out = tmp_path / "decision.json"
    assert decision.main(["--studies", "3", "--processes", "1", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert (written["studies"], len(written["worlds"])) == (3, 2)
    assert decision.table(written["worlds"]) in capsys.readouterr().out


def test_what_the_whole_simulation_came_to():
    written = json.loads(RESULT.read_text())
    assert written["studies"] == 1000
    found = {World(**entry["world"]): Outcome(**entry["outcome"]) for entry in written["worlds"]}
    assert list(found) == list(dict.fromkeys(worlds()))
    assert min(each.held for each in found.values() if each.held is not None) >= 0.95
    assert all(each.below_floor == 0 for world, each in found.items() if world.about != HEAVY_BELOW)
    assert all(each.below_floor <= 30 for each in found.values())
    assert all(found[world].decided >= 0.8 for world in ENOUGH)
    assert all(world.behind == 0.0 for world in ENOUGH)
