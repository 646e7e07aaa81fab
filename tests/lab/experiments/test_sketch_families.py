"""The quadratic of the experiment against brute force, and its eigenvalues and sweeps against what is known."""

from __future__ import annotations

import numpy as np
import pytest

from lopsided.lab.experiments.sketch_families import (
    D_IN,
    HORIZON,
    MU,
    L,
    R,
    draw_quadratics,
    eigenvalues,
    share_of_bound,
    times_read,
)
from lopsided.lab.projected_descent import descend
from lopsided.method.selectors import Columns, Window

PROBLEM = draw_quadratics(seeds=3)


def test_the_quadratics_have_the_curvatures_that_the_bound_takes():
    curvatures = np.linalg.eigvalsh(PROBLEM.C)
    assert curvatures[:, 0] == pytest.approx(MU)
    assert curvatures[:, -1] == pytest.approx(L)


def test_gap_and_gradient_agree():
    W = np.random.RandomState(0).standard_normal(PROBLEM.best.shape)
    way = np.random.RandomState(1).standard_normal(PROBLEM.best.shape)
    slopes = (PROBLEM.gap(W + 1e-5 * way) - PROBLEM.gap(W - 1e-5 * way)) / 2e-5
    assert slopes == pytest.approx((PROBLEM.gradient(W) * way).sum(axis=(1, 2)), rel=1e-6)
    assert PROBLEM.gap(PROBLEM.best) == pytest.approx(0)


def test_a_fixed_window_ends_at_the_least_gap_in_its_reach():
    gaps = descend(
        PROBLEM.gradient,
        PROBLEM.gap,
        np.zeros_like(PROBLEM.best),
        step=np.full(3, 1 / L),
        sketch=Window("fixed"),
        r=R,
        side="right",
        links=HORIZON * D_IN // R,
    )
    assert gaps[-1] == pytest.approx(PROBLEM.least_gap_within(np.arange(R)), rel=1e-6)
    assert (gaps[-1] < gaps[0]).all()
    assert PROBLEM.first_gap == pytest.approx(gaps[0])


def test_all_columns_reach_the_optimum_and_none_the_first_gap():
    assert PROBLEM.least_gap_within(np.arange(D_IN)) == pytest.approx(0)
    assert PROBLEM.least_gap_within(np.arange(0)) == pytest.approx(PROBLEM.first_gap)


def test_eigenvalues_of_what_is_drawn_and_of_what_is_known():
    table = eigenvalues(3, 8, draws=700)
    for name in ("orthonormal", "Gaussian", "Kaiming", "columns"):
        assert table[name].closed_form == 3 / 8
        assert table[name].draws == pytest.approx(3 / 8, abs=0.08)
    assert table["shuffled"].closed_form == 1 / 3
    assert table["shuffled"].draws == pytest.approx(1 / 3, abs=0.08)
    for name in ("cyclic", "fixed", "singular"):
        assert table[name].closed_form == 0
        assert table[name].draws == pytest.approx(0, abs=1e-9)


def test_how_often_a_sweep_reads_each_column():
    assert times_read(Window("cyclic"), 2, 8).tolist() == [1] * 8
    assert times_read(Window("cyclic"), 2, 5).tolist() == [2, 1, 1, 1, 1]
    assert times_read(Window("fixed"), 2, 6).tolist() == [3, 3, 0, 0, 0, 0]
    assert times_read(Columns(), 3, 9).sum() == 9


def test_the_bounds_share_is_one_where_the_gap_is_the_bound():
    gaps = (1 - MU / L * R / D_IN) ** np.arange(5)[:, None] * np.array([[2.0, 7.0]])
    assert share_of_bound(gaps).value == pytest.approx(1.0)
    gaps[3] *= 2
    assert share_of_bound(gaps).value == pytest.approx(2.0)
