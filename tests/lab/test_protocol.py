"""Verdicts, intervals and records of experiments."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lopsided import LopsidedError
from lopsided.lab import (
    EXPERIMENTS,
    Expected,
    Experiment,
    Measured,
    Outcome,
    Request,
    experiment_named,
    over_seeds,
    read_result,
    run_experiment,
    slope,
    verdict,
    write_page,
)
from lopsided.plotting.svg import Drawing, Trace


def outcome_of(values: list[float]) -> Outcome:
    plot = Drawing(name="p", title="A plot", x="x", y="y", lines=[Trace(name="a", x=[1, 2], y=[1.0, 2.0])])
    return Outcome(
        measured=[value if isinstance(value, Measured) else Measured(value=value) for value in values],
        settings={"seeds": np.int64(3)},
        plots=[plot],
        details={"array": np.arange(2)},
    )


def experiment(values: list[float], *expected: Expected) -> Experiment:
    return Experiment(
        name="mine",
        claim="It holds.",
        meaning="One. Two.",
        source="here",
        expected=expected,
        run=lambda request: outcome_of(values),
    )


AT_MOST_ONE = Expected(what="x", high=1.0, paper=0.5, exact=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.5, 1.0], "reproduced"),
        ([0.5, 2.0], "partly"),
        ([2.0, 3.0], "not reproduced"),
        ([float("nan"), 2.0], "not reproduced"),
        ([float("nan"), 0.5], "undecided"),
        ([float("inf"), float("nan")], "undecided"),
    ],
)
def test_the_verdict_follows_from_the_ranges(values, said):
    found = experiment(values, AT_MOST_ONE, AT_MOST_ONE)
    assert verdict(found, outcome_of(values)) == said


def test_every_figure_has_a_range_and_every_range_a_figure():
    with pytest.raises(LopsidedError, match="no range"):
        Expected(what="x")
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        verdict(experiment([1.0], AT_MOST_ONE, AT_MOST_ONE), outcome_of([1.0]))


@pytest.mark.parametrize("found", EXPERIMENTS.values(), ids=list(EXPERIMENTS))
def test_every_experiment_says_what_it_claims(found):
    assert found.claim.endswith(".")
    assert found.expected
    assert 2 <= sum(found.meaning.count(end) for end in (". ", ".\n")) + found.meaning.endswith(".") <= 3
    papers = ("2402.16842", "2410.08305", "2506.14530", "2606.13767", "2602.04998", "2509.04398")
    assert any(paper in found.source for paper in papers)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.RandomState(0)
    covered = 0
    for _ in range(400):
        low, high = over_seeds(rng.standard_normal(5) + 3).interval
        covered += low <= 3 <= high
    assert 0.92 <= covered / 400 <= 0.98
    assert over_seeds([2.0]) == Measured(value=2.0, why="one run has no interval")


def test_a_slope_is_the_exponent_of_a_power_law():
    x = np.array([1.0, 2, 4, 8])
    exact = slope(x, 3 * x**-0.5)
    assert exact.value == pytest.approx(-0.5)
    assert exact.interval == pytest.approx((-0.5, -0.5))
    runs = slope(x, np.array([3 * x**-0.4, 5 * x**-0.6]))
    assert runs.value == pytest.approx(-0.5)
    assert runs.interval[0] < -0.6 < -0.4 < runs.interval[1]


def test_a_run_leaves_a_record_and_replaces_the_last_one(tmp_path):
    out = tmp_path / "out"
    run_experiment(experiment([0.5], AT_MOST_ONE), Request(), out)
    result = run_experiment(experiment([2.0], AT_MOST_ONE), Request(size="full"), out)
    assert json.loads((out / "result.json").read_text()) == result.record
    assert (result.verdict, result.size, result.settings) == ("not reproduced", "full", {"seeds": 3})
    assert result.record["figures"] == [
        {
            **{"what": "x", "value": 2.0, "interval": None, "tolerance": "at most 1", "paper": 0.5},
            **{"exact": True, "holds": False, "state": "fails"},
        }
    ]
    assert (out / "p.svg").exists()
    write_page([out], tmp_path / "docs" / "page.md")
    page = (tmp_path / "docs" / "page.md").read_text()
    assert "| x | 2, exact | at most 1 | 0.5 | fails |" in page
    assert "](../out/p.svg)" in page


def test_a_finished_experiment_is_kept_on_resume_if_the_same_was_asked(tmp_path):
    out = tmp_path / "out"
    first = run_experiment(experiment([0.5], AT_MOST_ONE), Request(seeds=3), out)
    again = experiment([2.0], AT_MOST_ONE)
    assert run_experiment(again, Request(seeds=3), out, resume=True) == first
    for other in (Request(seeds=4), Request(seeds=3, size="full")):
        assert run_experiment(again, other, out, resume=True).verdict == "not reproduced"
    assert run_experiment(experiment([0.5], AT_MOST_ONE), other, out).verdict == "reproduced"


def test_the_same_data_give_the_same_picture(tmp_path):
    for name in ("a", "b"):
        run_experiment(experiment([0.5], AT_MOST_ONE), Request(), tmp_path / name)
    assert (tmp_path / "a" / "p.svg").read_bytes() == (tmp_path / "b" / "p.svg").read_bytes()


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(LopsidedError, match="unknown experiment"):
        experiment_named("mine")
    with pytest.raises(LopsidedError, match=r"without result\.json"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"schema": 0}')
    with pytest.raises(LopsidedError, match="expected 1"):
        read_result(tmp_path)


def test_a_missing_matplotlib_is_told_before_the_work(tmp_path, monkeypatch):
    def never(request):
        raise AssertionError("the experiment ran")

    monkeypatch.setattr("lopsided.plotting.svg.find_spec", lambda name: None)
    mine = Experiment(name="m", claim="c.", meaning="a. b.", source="s", expected=(AT_MOST_ONE,), run=never)
    with pytest.raises(LopsidedError, match=r"pip install 'lopsided\[lab\]'"):
        run_experiment(mine, Request(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
