"""Bootstrap draws and intervals, rank correlation and standard errors, against slow or known answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp, ttest_ind

from lopsided.stats import (
    bootstrap_means,
    crossed_bootstrap_means,
    difference_of_means_error,
    paired_interval,
    percentile_interval,
    rank_correlation,
    rank_correlation_interval,
    row_draws,
    standard_error,
    student_quantile,
    student_reach,
)


def test_bootstrap_means_have_the_standard_error_of_a_mean(monkeypatch):
    values = np.random.RandomState(2).exponential(size=500)
    found = bootstrap_means(values, 4000, np.random.RandomState(0))
    assert found.shape == (4000,)
    assert found.std() == pytest.approx(values.std() / 500**0.5, rel=0.06)
    monkeypatch.setattr("lopsided.stats.BLOCK", 501)
    # Blocks of one draw each take the same draws.
    assert np.array_equal(bootstrap_means(values, 20, np.random.RandomState(0)), found[:20])


def test_the_rank_correlation_is_spearmans():
    draw = np.random.RandomState(0)
    x, y = draw.randint(0, 4, size=(20, 8)).astype(float), draw.standard_normal((20, 8))
    expected = [spearmanr(a, b).statistic for a, b in zip(x, y)]
    np.testing.assert_allclose(rank_correlation(x, y), expected)
    assert rank_correlation(np.array([1.0, 2, 9]), np.array([0.1, 0.2, 0.3])) == pytest.approx(1.0)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


def test_the_interval_tells_order_from_accident():
    x = np.arange(10.0)
    assert rank_correlation_interval(x, x**3, draws=500) == (1.0, 1.0)
    low, high = rank_correlation_interval(x, np.array([3.0, 1, 8, 0, 9, 2, 7, 4, 6, 5]), draws=500)
    assert low < 0 < high
    assert rank_correlation_interval(x, np.ones(10), draws=500) is None


def test_the_interval_draws_the_same_rows_for_both():
    # A difference that is the same in every row has no spread, however much the rows differ.
    rows = {"loss": np.random.RandomState(0).rand(50) * 100}
    mean = lambda side: float(side["loss"].mean())  # noqa: E731
    low, high = paired_interval(rows, {"loss": rows["loss"] - 2.0}, mean)
    assert low == pytest.approx(-2.0)
    assert high == pytest.approx(-2.0)
    # And the mean of n differences has the standard error that it should have.
    noise = np.random.RandomState(1).randn(400)
    low, high = paired_interval({"loss": np.zeros(400)}, {"loss": noise}, mean)
    assert high - low == pytest.approx(2 * 1.96 * noise.std() / 20, rel=0.1)


def test_the_crossed_draws_vary_by_seeds_and_by_rows():
    """For differences a_s + b_r the draws' variance is var(a)/S + var(b)/R."""
    draw = np.random.RandomState(1)
    a, b = draw.standard_normal(5), 3 * draw.standard_normal(40)
    draws = crossed_bootstrap_means(a[:, None] + b[None], 2000)
    assert draws.mean() == pytest.approx(a.mean() + b.mean(), abs=0.06)
    assert draws.var() == pytest.approx(a.var() / 5 + b.var() / 40, rel=0.1)


def test_orders_that_are_equal_have_equal_correlations():
    """Counts of draws that correlate as much or more rest on exact ties, which products of norms would break."""
    x = np.arange(6.0)
    values = np.array([float(rank_correlation(x, np.array(order))) for order in itertools.permutations(range(6))])
    # 35 is six points' sum of squared distances times two; equal numerators give one number each.
    assert len(set(values)) == len(set(np.round(values * 35).astype(int))) == 36


def test_draws_are_the_same_one_by_one_and_all_at_once():
    """Figures of earlier versions were drawn at once, or one by one."""
    expected = np.random.RandomState(3).randint(0, 37, size=(50, 37))
    assert np.array_equal(np.stack(list(row_draws(37, 50, seed=3))), expected)


def test_an_interval_leaves_a_fortieth_on_each_side():
    assert percentile_interval(np.arange(41.0)) == (1.0, 39.0)
    values = np.random.RandomState(0).standard_normal(501)
    assert percentile_interval(values) == tuple(np.percentile(values, [2.5, 97.5]))


def test_standard_errors_are_those_of_students_tests():
    draw = np.random.RandomState(4)
    a, b = draw.standard_normal(7) + 1, 2 * draw.standard_normal(11)
    assert a.mean() / standard_error(a) == pytest.approx(ttest_1samp(a, 0).statistic)
    welch = ttest_ind(a, b, equal_var=False).statistic
    assert (a.mean() - b.mean()) / difference_of_means_error(a, b) == pytest.approx(welch)
    interval = ttest_1samp(a, 0).confidence_interval(0.95)
    assert a.mean() + float(student_reach(a)) == pytest.approx(interval.high)
    assert student_reach(np.stack([a, 3 * a])) == pytest.approx(
        student_quantile(6) * standard_error(a) * np.array([1, 3])
    )
