"""When methods can't be told apart, and what stands in a cell; on runs made up for the purpose."""

from __future__ import annotations

import pytest

from lopsided.study.board_cells import cell_of, tied
from lopsided.study.columns import UNTOLD, Column, columns_of
from tests.study.made_runs import elsewhere, made_run, right, scored, seeds

REASON = "all predictions are equal, and nothing correlates with a constant"


def column(key: str, metric: str = "accuracy", greater_is_better: bool = True) -> Column:
    return next(column for column in columns_of(metric, greater_is_better) if column.key == key)


@pytest.fixture
def ties(tmp_path):
    """Whether two methods tie in a column, from their runs by seed."""
    return lambda key, best, other: tied(column(key), seeds(tmp_path, best), seeds(tmp_path, other))


@pytest.fixture
def cell(tmp_path):
    """A method's cell in a column, from its runs by seed."""
    return lambda key, runs: cell_of(column(key), seeds(tmp_path, runs))


@pytest.mark.parametrize(
    ("best", "other", "expected"),
    [
        # d_i = 1 in 10 rows of 100: 0.10 against twice sqrt(0.1 · 0.9 / 100) = 0.06.
        (right(first=80), right(first=70), False),
        # The same two scores on rows that hardly overlap: d_i = ±1 in 50 rows, twice their error is 0.14.
        (right(first=80), right(last=70), True),
        # 0.03 against twice sqrt(0.03 · 0.97 / 100) = 0.034.
        (right(first=80), right(first=77), True),
        (right(first=80), right(first=80), True),
    ],
)
def test_one_seed_ties_within_two_paired_standard_errors(ties, best, other, expected):
    assert ties("score", [made_run(answered=best)], [made_run(answered=other)]) is expected


@pytest.mark.parametrize(
    ("best", "other", "expected"),
    [
        # Differences 0.10, 0.10, 0.13: mean 0.11, t(0.975, 2) · 0.01 = 0.043.
        ([0.8, 0.7, 0.9], [0.7, 0.6, 0.77], False),
        # Differences 0.30, 0.00, 0.03: the same mean, and an interval of ±0.41.
        ([0.8, 0.7, 0.9], [0.5, 0.7, 0.87], True),
        # Differences 0.04, 0.06: t(0.975, 1) is 12.7, so that two seeds tell little.
        ([0.8, 0.8], [0.76, 0.74], True),
        ([0.8, 0.6], [0.8, 0.6], True),
    ],
)
def test_several_seeds_tie_when_a_paired_interval_holds_zero(ties, best, other, expected):
    assert ties("score", [scored(s) for s in best], [scored(s) for s in other]) is expected


def test_pairs_are_by_seed(ties, tmp_path):
    # Sorted, these would differ by 0.1 in each pair.
    best, other = (0.9, 0.7, 0.8), (0.6, 0.8, 0.7)
    assert ties("score", [scored(s) for s in best], [scored(s) for s in other])
    assert not ties("score", [scored(s) for s in sorted(best)], [scored(s) for s in sorted(other)])
    # By the seed, and not by the place in the list.
    runs = [seeds(tmp_path, [scored(s) for s in scores]) for scores in (sorted(best), sorted(other))]
    assert not tied(column("score"), runs[0], runs[1][::-1])


def test_only_seeds_that_both_have_tell_methods_apart(tmp_path):
    many, few = seeds(tmp_path, [scored(0.9)] * 3), seeds(tmp_path, [scored(0.1)] * 2)
    assert not tied(column("score"), many, few)
    assert tied(column("score"), many[2:], few)


def test_counts_tie_only_when_equal(ties):
    for runs in (1, 3):
        few, many = [scored(0.5, trained_parameters=100)] * runs, [scored(0.5, trained_parameters=101)] * runs
        assert ties("trained_parameters", few, few)
        assert not ties("trained_parameters", few, many)


def test_times_and_gaps_have_errors_of_their_own(ties):
    fast = made_run(timings={"median_ms": 10.0, "se_ms": 0.3, "steps": 27})
    slow = made_run(timings={"median_ms": 11.0, "se_ms": 0.4, "steps": 27})
    slower = made_run(timings={"median_ms": 11.1, "se_ms": 0.4, "steps": 27})
    # Twice hypot(0.3, 0.4) is 1.
    assert ties("step_ms", [fast], [slow])
    assert not ties("step_ms", [fast], [slower])
    small = made_run(generalization_error={"value": 0.10, "se": 0.03})
    large = made_run(generalization_error={"value": 0.21, "se": 0.04})
    assert not ties("generalization_error", [small], [large])


def test_a_cell_has_the_error_of_its_seeds(cell):
    one = cell("score", [scored(0.8)])
    assert (one.mean, one.se, one.mark, one.why) == (0.8, pytest.approx(0.04), None, {})
    assert one.half == pytest.approx(1.96 * 0.04, rel=1e-4)
    three = cell("score", [scored(0.8), scored(0.7), scored(0.9)])
    assert (three.mean, three.se) == (pytest.approx(0.8), pytest.approx(0.1 / 3**0.5))
    assert three.half == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    # A count has a standard error over seeds, and no interval.
    counts = [cell("trained_parameters", [scored(0.8)] * n) for n in (1, 2)]
    assert [(c.se, c.half) for c in counts] == [(None, None), (0.0, None)]
    assert cell("ood_score", [scored(0.8)]) is None
    assert cell("score", []) is None


def test_out_of_domain_is_the_mean_over_domains(cell, ties):
    good = elsewhere(right(first=80), right(first=60))
    mean = cell("ood_score", [good])
    assert mean.mean == pytest.approx(0.7)
    assert mean.se == pytest.approx((0.8 * 0.2 / 100 + 0.6 * 0.4 / 100) ** 0.5 / 2)
    # Differences 0.10 and 0: 0.05 against twice 0.03 / 2.
    assert not ties("ood_score", [good], [elsewhere(right(first=70), right(first=60))])
    # And 0.02: 0.01 against twice 0.014 / 2.
    assert ties("ood_score", [good], [elsewhere(right(first=78), right(first=60))])


def test_titles_units_and_directions_are_the_metrics():
    assert (column("score").better, column("score").unit, column("score").title) == ("high", "percent", "test accuracy")
    macro = column("ood_score", "f1_macro")
    assert (macro.unit, macro.title) == ("percent", "out-of-domain f1 macro")
    low = column("score", "perplexity", greater_is_better=False)
    assert (low.better, low.unit) == ("low", "perplexity")
    assert column("score", "matthews").unit == "score"


# -- figures that could not be computed ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_without_a_standard_error_the_data_can_t_tell_methods_apart(ties, cell, number):
    best, other = scored(0.9), scored(0.1)
    for run in (best, other):
        run.rows["test"] = {key: array[:1] for key, array in made_run().rows["test"].items()}
    # One row has no spread; over seeds the rows do not matter.
    assert ties("score", [best] * number, [other] * number) is (number == 1)
    missing = made_run(timings={"median_ms": 10.0, "se_ms": None, "steps": 1, "why": {"se_ms": "one step"}})
    slow = made_run(timings={"median_ms": 99.0, "se_ms": 0.1, "steps": 9})
    assert ties("step_ms", [missing] * number, [slow] * number) is (number == 1)
    bare = cell("step_ms", [missing])
    assert (bare.mean, bare.se, bare.half, bare.why) == (10.0, None, None, {"se": "one step"})


def test_a_mean_over_seeds_of_which_one_is_missing_is_not_given(cell):
    figures = {"score": None, "se": None, "loss": 1.0, "rows": 100, "why": {"score": REASON, "se": REASON}}
    mean = cell("score", [scored(0.8), made_run(metrics={"test": figures})])
    assert (mean.mean, mean.se) == (None, None)
    assert mean.why == {"mean": f"1 of 2 seeds have no figure: {REASON}"}


def test_a_domain_without_a_score_leaves_no_mean_over_domains(cell):
    run = elsewhere(right(first=80), right(first=60))
    run.record["metrics"]["d1"] |= {"score": None, "why": {"score": REASON}}
    mean = cell("ood_score", [run])
    assert mean.mean is None
    assert mean.why == {"mean": f"1 of 2 domains have none (d1: {REASON})"}


def test_a_record_without_a_reason_is_said_to_have_none(cell):
    # As version 0.1.0 wrote it.
    assert cell("step_ms", [made_run(timings={"median_ms": float("nan"), "se_ms": 1.0, "steps": 0})]).why == {
        "mean": UNTOLD
    }


def test_a_run_without_test_figures_is_not_concerned(cell):
    run = made_run(metrics={}, generalization_error=None)
    assert [cell(key, [run]) for key in ("score", "ood_score", "generalization_error")] == [None] * 3
