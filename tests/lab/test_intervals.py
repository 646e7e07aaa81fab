"""Verdicts by intervals: holds, fails or undecided; the ranges beside the papers' figures; the recorded results."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from lopsided import LopsidedError
from lopsided.lab import EXPERIMENTS, Expected, Measured, read_result
from lopsided.lab.experiments.digits_chain import PAPER
from lopsided.lab.intervals import largest, largest_mean, least, over_seeds, quantile, share, slope
from lopsided.lab.protocol import verdict_of
from lopsided.lab.rejudge import judged, range_of

ROOT = Path(__file__).parents[2]
LAB = ROOT / "docs" / "lab"

LOW, HIGH, BOTH = Expected(what="x", low=0.0), Expected(what="x", high=1.0), Expected(what="x", low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("expected", "interval", "state"),
    [
        (LOW, (0.1, 5.0), "holds"),
        (LOW, (0.0, 5.0), "holds"),
        (LOW, (-0.1, 5.0), "undecided"),
        (LOW, (-5.0, -0.1), "fails"),
        (LOW, (-5.0, 0.0), "undecided"),
        (HIGH, (-5.0, 0.9), "holds"),
        (HIGH, (0.9, 1.1), "undecided"),
        (HIGH, (1.1, 1.2), "fails"),
        (BOTH, (0.2, 0.8), "holds"),
        (BOTH, (-0.1, 1.1), "undecided"),
        (BOTH, (-0.1, 0.5), "undecided"),
        (BOTH, (0.5, 1.1), "undecided"),
        (BOTH, (1.1, 1.2), "fails"),
        (BOTH, (-1.2, -1.1), "fails"),
        (BOTH, (math.nan, 0.5), "undecided"),
        (BOTH, (0.5, math.inf), "undecided"),
        (BOTH, None, "undecided"),
    ],
)
def test_the_interval_is_judged_and_not_the_mean(expected, interval, state):
    # A mean in the middle of the range, which alone would hold everywhere.
    found = expected.judge(Measured(value=0.5, interval=interval))
    assert found.state == state
    assert bool(found.why) == (state == "undecided")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("exact", [False, True])
def test_what_could_not_be_computed_decides_nothing(value, exact):
    expected = Expected(what="x", low=0.0, exact=exact)
    assert expected.judge(Measured(value=value, interval=(1.0, 2.0))).state == "undecided"


def test_what_is_exact_needs_no_interval():
    exact = Expected(what="x", low=1.0, exact=True)
    assert [exact.judge(Measured(value=value)).state for value in (1.0, 0.99)] == ["holds", "fails"]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["holds", "holds"], "reproduced"),
        (["holds", "undecided"], "undecided"),
        (["undecided"], "undecided"),
        (["holds", "fails"], "partly"),
        (["holds", "fails", "undecided"], "partly"),
        (["fails", "undecided"], "not reproduced"),
        (["fails"], "not reproduced"),
    ],
)
def test_the_verdict_follows_from_the_states(states, said):
    assert verdict_of(states) == verdict_of(states[::-1]) == said


def test_one_seed_has_no_interval_and_decides_nothing():
    for found in (over_seeds([0.5]), slope([1.0, 2.0], [1.0, 2.0]), slope([1.0, 2.0], [[1.0, 2.0]])):
        assert found.interval is None
        assert found.why
        assert BOTH.judge(found).why == found.why
    assert largest_mean(np.array([[0.5], [0.7]])).interval is None


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_does_not_vanish_wherever_it_stands(position, bad):
    values = np.array([0.1, 0.2, 0.3, 0.4])
    values[position] = bad
    assert math.isnan(over_seeds(values).value)
    assert "1 of 4 runs" in over_seeds(values).why
    assert math.isnan(slope([1, 2, 3, 4], values if math.isnan(bad) else -values).value)
    figures = [
        Measured(value=value, interval=(0.0, 1.0), why="why") for value in np.where(values == bad, np.nan, values)
    ]
    for combined in (largest(figures), least(figures)):
        assert math.isnan(combined.value)
        assert combined.interval is None
        assert combined.why == "why"
    assert math.isnan(largest_mean(np.stack([values, values], axis=1)).value)


def test_a_largest_figure_without_an_interval_of_each_has_none():
    figures = [Measured(value=1.0, interval=(0.5, 1.5)), Measured(value=0.2, why="one run")]
    assert largest(figures) == Measured(value=1.0, why="one run")
    both = [Measured(value=1.0, interval=(0.5, 1.5)), Measured(value=0.9, interval=(0.1, 2.0))]
    assert largest(both) == Measured(value=1.0, interval=(0.5, 2.0))
    assert least(both) == Measured(value=0.9, interval=(0.1, 1.5))


def test_a_share_has_a_width_even_where_all_came_out():
    assert share([True] * 20).interval == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert share([False] * 20).interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert share([True]).interval[0] < 0.03
    assert math.isnan(share([]).value)
    draw, covered = np.random.RandomState(0), 0
    for _ in range(400):
        low, high = share(draw.random_sample(30) < 0.9).interval
        covered += low <= 0.9 <= high
    assert covered / 400 >= 0.94


def test_a_quantile_has_the_interval_of_order_statistics():
    draw, covered = np.random.RandomState(0), 0
    for _ in range(400):
        low, high = quantile(draw.random_sample(40), 0.9).interval
        covered += low <= 0.9 <= high
    assert covered / 400 >= 0.94
    assert quantile(np.arange(35.0), 0.9).interval is None
    assert quantile(np.arange(36.0), 0.9).interval is not None
    assert math.isnan(quantile([1.0, math.nan], 0.5).value)


# -- the ranges and the papers' figures ----------------------------------------------------------------------

# Malinovsky et al. 2024, arXiv:2410.08305, Table 3: MNIST, per cent.
MNIST = {
    "B": {"full": 98.0, "lora": 83.8, "cola": 92.6, "asym": 62.3, "rac": 92.0},
    "A": {"full": 98.0, "lora": 87.0, "cola": 96.2, "asym": 81.6, "rac": 96.1},
}
# By experiment and position among its ranges: what the source prints, or what follows from it.
CITED = {
    ("counterexample", 0): 1.0,  # Malinovsky et al. 2024, Figure 1: LoRA and COLA diverge, in all runs
    ("counterexample", 1): 1.0,
    ("counterexample", 2): 0.77,  # derived for this project: about 77 % of the gap is left
    ("counterexample", 3): 0.0,
    # rate·d/r from 0.39 to 0.43 over r = 1 … 20: an exponent from 1 - ln(0.43/0.39)/ln 20 to 1 + the same
    ("linear-regression", 0): 1 - math.log(0.43 / 0.39) / math.log(20),
    ("linear-regression", 1): 1.0,
    ("logistic-regression", 0): 1.0,
    ("logistic-regression", 1): 1.0,
    ("sketches", 2): 1.0,
    ("sketches", 4): 1.0,
    ("sketches", 5): 1.0,
    ("reshuffling", 0): 1.0,
    ("reshuffling", 1): 2.0,
    # Kratsios et al. 2025, arXiv:2506.14530: √r and 1/√N
    ("sample-complexity", 0): -0.5,
    ("sample-complexity", 1): -0.5,
    ("sample-complexity", 2): 0.5,
    ("sample-complexity", 3): 25.0,
    ("sample-complexity", 4): -0.5,
    ("sample-complexity", 5): 0.5,
    ("concentration", 0): math.log(0.05 / 0.24) / math.log(16),  # variations 0.24, 0.10, 0.05 at r = 1, 4, 16
    ("concentration", 1): 0.05 / 0.24,
    # Zhu et al. 2024, arXiv:2402.16842
    ("least-squares", 1): 1.0,
    ("least-squares", 3): 1.0,  # training A wins every time
    ("factor-similarity", 3): 1.0,  # random pairs give about r/d
    ("double-rank", 0): 87.5 - 87.2,  # the GLUE table's averages: B-only at r = 16, LoRA at r = 8
    ("init", 1): 87.4 - 87.2,  # B-only and LoRA at r = 8
}


@pytest.mark.parametrize(("name", "position"), CITED)
def test_a_range_holds_the_figure_of_its_source(name, position):
    expected = EXPERIMENTS[name].expected[position]
    assert expected.contains(CITED[name, position]), f"{expected.what}: {expected.range}"
    if expected.paper is not None:
        assert expected.paper == pytest.approx(CITED[name, position])


def test_the_digits_ranges_hold_the_papers_table():
    expected = EXPERIMENTS["digits-chain"].expected
    for side, ranges in (("B", expected[:4]), ("A", expected[4:])):
        of = MNIST[side]
        assert all(PAPER[f"{name} {side}"] == of[name] for name in ("lora", "cola", "asym", "rac"))
        apart = [of["lora"] - of["asym"], of["rac"] - of["lora"], of["full"] - of["rac"], of["rac"] - of["asym"]]
        for one, figure in zip(ranges, apart, strict=True):
            assert one.paper == pytest.approx(figure)
            assert one.contains(figure), one
            # The claim's own order is what the range asks for at the least.
            assert one.low >= 0


def test_a_range_without_the_papers_figure_is_refused():
    with pytest.raises(
        LopsidedError, match=r"expected a range with the paper's figure in it, got at least 15 without 14\.5"
    ):
        Expected(what="x", low=15, paper=14.5)


# -- records -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [e for x in EXPERIMENTS.values() for e in x.expected], ids=lambda e: e.what[:40])
def test_a_range_is_read_back_from_its_words(found):
    for read, end in zip(range_of(found.range), (found.low, found.high), strict=True):
        assert read is None if end is None else read == pytest.approx(end, rel=1e-4)


def test_a_result_of_version_0_1_0_is_judged_as_ranges_are_now(tmp_path):
    old = {"what": "x", "value": 0.5, "interval": [-0.1, 1.1], "tolerance": "at least 0", "paper": None, "holds": True}
    figures = [old, {**old, "interval": None}, {**old, "interval": [0.1, 1.1]}, {**old, "value": math.nan}]
    found = judged({"schema": 1, "verdict": "reproduced", "figures": figures})
    assert [figure["state"] for figure in found["figures"]] == ["undecided", "undecided", "holds", "undecided"]
    assert found["figures"][1]["why"] == {"state": "no interval was recorded"}
    assert found["verdict"] == "undecided"
    assert judged({"figures": [{**old, "interval": None}]}, frozenset({"x"}))["verdict"] == "reproduced"
    whole = json.loads((LAB / "counterexample" / "result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**whole, "verdict": "reproduced", "figures": figures}))
    result = read_result(tmp_path)
    assert result.verdict == result.record["verdict"] == "undecided"
    assert result.counts == "1 holds, 3 undecided"
    assert [figure.to_json() for figure in result.figures] == result.record["figures"]


def test_the_recorded_verdicts_follow_from_their_intervals_and_the_pages_say_so():
    results = {name: json.loads((LAB / name / "result.json").read_text()) for name in EXPERIMENTS}
    page, readme = (ROOT / "docs" / "lab.md").read_text(), (ROOT / "README.md").read_text()
    for name, result in results.items():
        for found, expected in zip(result["figures"], EXPERIMENTS[name].expected, strict=True):
            interval = None if found["interval"] is None else tuple(found["interval"])
            measured = Measured(value=found["value"], interval=interval)
            assert expected.judge(measured).state == found["state"], (name, found["what"])
            assert (found["tolerance"], found["exact"]) == (expected.range, expected.exact)
        assert result["verdict"] == verdict_of(found["state"] for found in result["figures"])
        assert f"| [{name}](#{name}) | {result['claim']} | **{result['verdict']}** |" in page
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    verdicts = [result["verdict"] for result in results.values()]
    counts = {verdict: verdicts.count(verdict) for verdict in ("reproduced", "partly", "not reproduced", "undecided")}
    said = re.sub(r"\s+", " ", readme)
    assert sum(counts.values()) == len(EXPERIMENTS) == 18
    assert (
        f"lab's 18 claims, judged by 95 % intervals, {words[counts['reproduced']]} are reproduced, "
        f"{words[counts['partly']]} are in part, {words[counts['not reproduced']]} is not, and "
        f"{words[counts['undecided']]} are undecided"
    ) in said
