"""Theorem 4.3's closed forms against gradient-free solving, and the condition against random factors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopsided import LopsidedError
from lopsided.theory import expected_gap, tune_a, tune_b, tune_b_condition


def problem(seed: int, d_out: int = 6, d_in: int = 5):
    rng = np.random.RandomState(seed)
    root = rng.standard_normal((d_in, d_in))
    return rng.standard_normal((d_out, d_in)), root @ root.T, rng


def orthonormal(rng, d: int, r: int) -> np.ndarray:
    """(d, r), uniform."""
    Q, R = np.linalg.qr(rng.standard_normal((d, r)))
    return Q * np.sign(np.diag(R))


def loss(delta, sigma, BA) -> float:
    return float(np.trace((delta - BA) @ sigma @ (delta - BA).T))


@given(st.integers(0, 10**6), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_both_closed_forms_are_least_squares(seed, r):
    delta, sigma, rng = problem(seed)
    root = np.linalg.cholesky(sigma)
    Q, U = orthonormal(rng, 5, r).T, orthonormal(rng, 6, r)
    b, a = tune_b(delta, sigma, Q), tune_a(delta, sigma, U)
    # ‖(Δ - BQ)·Σ^½‖² and ‖(Δ - UA)·Σ^½‖² as plain least squares.
    B = np.linalg.lstsq((Q @ root).T, (delta @ root).T, rcond=None)[0].T
    A = np.linalg.lstsq(U, delta, rcond=None)[0]
    assert np.allclose(b.factor, B, atol=1e-6)
    assert np.allclose(a.factor, A, atol=1e-10)
    whole = loss(delta, sigma, 0 * delta)
    assert b.loss == pytest.approx(loss(delta, sigma, B @ Q), abs=1e-9 * whole)
    assert a.loss == pytest.approx(loss(delta, sigma, U @ A), abs=1e-9 * whole)


def test_the_whole_width_leaves_nothing():
    delta, sigma, rng = problem(2)
    assert tune_b(delta, sigma, orthonormal(rng, 5, 5).T).loss == pytest.approx(0, abs=1e-8)
    assert tune_a(delta, sigma, orthonormal(rng, 6, 6)).loss == pytest.approx(0, abs=1e-8)


def test_rows_that_are_not_orthonormal_leave_the_same_loss():
    delta, sigma, rng = problem(3)
    Q = orthonormal(rng, 5, 2).T
    assert tune_b(delta, sigma, rng.standard_normal((2, 2)) @ Q).loss == pytest.approx(tune_b(delta, sigma, Q).loss)


def test_the_gap_of_equal_variances():
    d, r, variance = 40, 4, 2.5
    rng = np.random.RandomState(0)
    delta, basis = rng.standard_normal((d, d)), orthonormal(rng, d, r)
    sigma = variance * basis @ basis.T
    gaps = []
    for _ in range(400):
        left_by_b = tune_b(delta, sigma, orthonormal(rng, d, r).T).loss
        assert left_by_b == pytest.approx(0, abs=1e-6 * np.sum(delta**2))
        gaps.append(tune_a(delta, sigma, orthonormal(rng, d, r)).loss - left_by_b)
    assert np.mean(gaps) == pytest.approx(expected_gap(delta, basis, variance), rel=0.02)


@pytest.mark.parametrize("where", ["high", "low", "everywhere"])
@pytest.mark.parametrize(("d_out", "d_in"), [(96, 96), (48, 96)])
def test_the_condition_says_who_wins(where, d_out, d_in):
    rng, r = np.random.RandomState(4), 3
    variances = np.where(np.arange(d_in) < d_in // 2, 4.0, 0.25)
    if where == "everywhere":
        variances = np.geomspace(4, 0.1, d_in)
    delta = rng.standard_normal((d_out, d_in))
    if where == "high":
        delta[:, d_in // 2 :] = 0
    if where == "low":
        delta[:, : d_in // 2] = 0
    sigma = np.diag(variances)
    whole = loss(delta, sigma, 0 * delta)
    b = [whole - tune_b(delta, sigma, orthonormal(rng, d_in, r).T).loss for _ in range(60)]
    a = [whole - tune_a(delta, sigma, orthonormal(rng, d_out, r)).loss for _ in range(60)]
    found = tune_b_condition(sigma, delta)
    assert found.tune_b == (np.mean(b) > np.mean(a))
    # With half as many outputs, A's random directions catch twice the share, which is what tips the second shape.
    if d_out == d_in:
        assert found.tune_b == (where != "low")
    assert found.ratio == pytest.approx(np.mean(b) / np.mean(a), rel=0.15)


def test_equal_sides_count_as_equal():
    assert tune_b_condition(np.eye(7), np.random.RandomState(0).standard_normal((7, 7))).tune_b


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tune_b(np.ones((2, 3)), np.eye(2), np.ones((1, 3))), "expected Δ"),
        (lambda: tune_b(np.ones((2, 3)), np.eye(3), np.ones((1, 2))), "expected Q"),
        (lambda: tune_b(np.ones((2, 3)), np.diag([1.0, 0, 0]), np.eye(3)[:2]), "no inverse"),
        (lambda: tune_a(np.ones((2, 3)), np.eye(3), np.ones((3, 1))), "expected U"),
        (lambda: tune_a(np.ones((2, 3)), np.eye(3), np.ones((2, 1))), "orthonormal"),
        (lambda: tune_b_condition(np.triu(np.ones((3, 3))), np.ones((2, 3))), "symmetric"),
        (lambda: tune_b_condition(np.eye(3), np.zeros((2, 3))), "nothing to learn"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
