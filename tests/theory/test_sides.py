"""The gains of one side against brute force, Newton's method and Theorem 4.3, and their estimate against noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lopsided import LopsidedError
from lopsided.theory import tune_a, tune_b, tune_b_condition
from lopsided.theory.sides import Moments, whiten

D_OUT, D_IN = 6, 5


def moment(rng, d: int) -> np.ndarray:
    root = rng.standard_normal((d, d))
    return root @ root.T / d


def problem(seed: int, batches: int = 3):
    rng = np.random.RandomState(seed)
    gradients = rng.standard_normal((batches, D_OUT, D_IN))
    return Moments(sigma=moment(rng, D_IN), gamma=moment(rng, D_OUT), gradients=gradients), rng


def damped(matrix: np.ndarray, damping: float) -> np.ndarray:
    return matrix + damping * np.trace(matrix) / len(matrix) * np.eye(len(matrix))


def change(moments: Moments, damping: float, update: np.ndarray) -> float:
    """<G, ΔW> + ½·Tr[Γ̃·ΔW·Σ̃·ΔWᵀ]"""
    G = moments.gradients.mean(0)
    bent = damped(moments.gamma, damping) @ update @ damped(moments.sigma, damping)
    return float(np.sum(G * update) + 0.5 * np.sum(bent * update))


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.01, 0.1, 1.0]))
@settings(max_examples=40, deadline=None)
def test_both_sides_are_the_best_of_all_values(seed, r, damping):
    moments, rng = problem(seed)
    local, G = whiten(moments, damping), moments.gradients.mean(0)
    sigma, gamma = damped(moments.sigma, damping), damped(moments.gamma, damping)
    Q, U = rng.standard_normal((r, D_IN)), rng.standard_normal((D_OUT, r))
    # vec(B) and vec(A) by one linear system each, row by row: vec(B·Q) = (I ⊗ Qᵀ)·vec(B).
    whole = np.kron(gamma, sigma)
    for chosen, basis in (
        (local.gain_b(Q), np.kron(np.eye(D_OUT), Q.T)),
        (local.gain_a(U), np.kron(U, np.eye(D_IN))),
        (local.gain(), np.eye(D_OUT * D_IN)),
    ):
        slope = basis.T @ G.ravel()
        best = np.linalg.solve(basis.T @ whole @ basis, -slope)
        found = -change(moments, damping, (basis @ best).reshape(D_OUT, D_IN))
        assert chosen.fitted == pytest.approx(found, rel=1e-6)


def test_the_traces_of_the_docstring():
    moments, rng = problem(1)
    local, G = whiten(moments, 0.1), moments.gradients.mean(0)
    sigma, gamma = damped(moments.sigma, 0.1), damped(moments.gamma, 0.1)
    Q, U = rng.standard_normal((2, D_IN)), rng.standard_normal((D_OUT, 2))
    b = Q @ G.T @ np.linalg.inv(gamma) @ G @ Q.T @ np.linalg.inv(Q @ sigma @ Q.T)
    a = np.linalg.inv(sigma) @ G.T @ U @ np.linalg.inv(U.T @ gamma @ U) @ U.T @ G
    assert local.gain_b(Q).fitted == pytest.approx(0.5 * np.trace(b))
    assert local.gain_a(U).fitted == pytest.approx(0.5 * np.trace(a))


def test_one_newton_step_of_autograd():
    moments, rng = problem(2)
    Q = torch.from_numpy(rng.standard_normal((2, D_IN)))
    G, sigma, gamma = (
        torch.from_numpy(m) for m in (moments.gradients.mean(0), damped(moments.sigma, 0.1), damped(moments.gamma, 0.1))
    )

    def loss(B):
        update = B @ Q
        return (G * update).sum() + 0.5 * torch.trace(gamma @ update @ sigma @ update.T)

    start = torch.zeros(D_OUT, 2, dtype=torch.float64)
    slope = torch.func.grad(loss)(start).reshape(-1)
    hessian = torch.func.hessian(loss)(start).reshape(D_OUT * 2, D_OUT * 2)
    end = -torch.linalg.solve(hessian, slope).reshape(D_OUT, 2)
    assert whiten(moments, 0.1).gain_b(Q.numpy()).fitted == pytest.approx(-float(loss(end)), rel=1e-9)


@pytest.mark.parametrize("r", [1, 3, 5])
def test_no_update_of_rank_r_beats_the_bound_and_one_reaches_it(r):
    moments, rng = problem(3)
    local = whiten(moments, 0.1)
    bound = local.bound_ab(r).fitted
    M = local.parts.sum(0)
    left, values, right = np.linalg.svd(M)
    best = -(left[:, :r] * values[:r]) @ right[:r]
    update = np.linalg.solve(local.root_gamma.T, best) @ np.linalg.inv(local.root_sigma)
    assert np.linalg.matrix_rank(update) == r
    assert -change(moments, 0.1, update) == pytest.approx(bound, rel=1e-9)
    for _ in range(50):
        Q, U = rng.standard_normal((r, D_IN)), rng.standard_normal((D_OUT, r))
        assert local.gain_b(Q).fitted <= bound * (1 + 1e-9)
        assert local.gain_a(U).fitted <= bound * (1 + 1e-9)
    assert (bound == pytest.approx(local.gain().fitted)) == (r == 5)


def test_least_squares_is_the_case_of_equal_outputs():
    # ½·E‖(Δ - BA)·x‖² has G = -ΔΣ and Γ = I.
    rng = np.random.RandomState(4)
    sigma, delta = moment(rng, D_IN), rng.standard_normal((D_OUT, D_IN))
    local = whiten(Moments(sigma=sigma, gamma=np.eye(D_OUT), gradients=np.stack(2 * [-delta @ sigma])), 0.0)
    Q, U = np.linalg.qr(rng.standard_normal((D_IN, 2)))[0].T, np.linalg.qr(rng.standard_normal((D_OUT, 2)))[0]
    whole = float(np.trace(delta @ sigma @ delta.T))
    for gain, loss in (
        (local.gain(), 0.0),
        (local.gain_b(Q), tune_b(delta, sigma, Q).loss),
        (local.gain_a(U), tune_a(delta, sigma, U).loss),
    ):
        assert gain.fitted == pytest.approx(0.5 * (whole - loss), rel=1e-6)
        # Batches that agree have no noise to take off.
        assert gain.expected == pytest.approx(gain.fitted)


@pytest.mark.parametrize("where", ["high", "low"])
def test_sides_rank_as_the_condition_says(where):
    rng, d, r = np.random.RandomState(5), 64, 3
    variances = np.where(np.arange(d) < d // 2, 4.0, 0.25)
    delta = rng.standard_normal((d, d))
    delta[:, slice(d // 2, None) if where == "high" else slice(0, d // 2)] = 0
    sigma = np.diag(variances)
    local = whiten(Moments(sigma=sigma, gamma=np.eye(d), gradients=np.stack(2 * [-delta @ sigma])), 0.0)
    sketches = [np.linalg.qr(rng.standard_normal((d, r)))[0] for _ in range(40)]
    b = np.mean([local.gain_b(S.T).expected for S in sketches])
    a = np.mean([local.gain_a(S).expected for S in sketches])
    found = tune_b_condition(sigma, delta)
    assert (b > a) == found.tune_b == (where == "high")
    assert b / a == pytest.approx(found.ratio, rel=0.15)


def test_the_expected_gain_is_unbiased_and_the_fitted_one_is_not():
    rng, draws = np.random.RandomState(6), 1500
    G, sigma, gamma = rng.standard_normal((D_OUT, D_IN)), moment(rng, D_IN), moment(rng, D_OUT)
    Q, weights = rng.standard_normal((2, D_IN)), np.array([1.0, 2.0, 3.0])
    exact = whiten(Moments(sigma=sigma, gamma=gamma, gradients=np.stack([G, G])), 0.1)
    found = []
    for _ in range(draws):
        # A mean over more rows has less noise.
        noise = rng.standard_normal((3, D_OUT, D_IN)) / np.sqrt(weights)[:, None, None]
        local = whiten(Moments(sigma=sigma, gamma=gamma, gradients=G + noise, weights=weights), 0.1)
        found.append([(g.fitted, g.expected) for g in (local.gain(), local.gain_b(Q))])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / draws**0.5
    for gain, (fitted, expected), (_, se) in zip((exact.gain(), exact.gain_b(Q)), mean, error):
        assert abs(expected - gain.fitted) < 4 * se
        assert fitted > gain.fitted + 8 * se


def test_pure_noise_promises_nothing():
    rng = np.random.RandomState(7)
    found = []
    for _ in range(400):
        gradients = rng.standard_normal((4, D_OUT, D_IN))
        local = whiten(Moments(sigma=np.eye(D_IN), gamma=np.eye(D_OUT), gradients=gradients), 0.1)
        found.append([local.gain().expected, local.bound_ab(2).expected])
    assert (np.abs(np.mean(found, axis=0)) < 4 * np.std(found, axis=0) / 20).all()


def test_only_the_space_of_a_sketch_counts():
    moments, rng = problem(8)
    local, Q = whiten(moments), rng.standard_normal((2, D_IN))
    mixed = local.gain_b(rng.standard_normal((2, 2)) @ Q)
    assert mixed.fitted == pytest.approx(local.gain_b(Q).fitted)
    assert mixed.expected == pytest.approx(local.gain_b(Q).expected)


ONES = np.ones((2, 2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Moments(sigma=np.eye(2), gamma=np.eye(2), gradients=ONES), "expected Σ of"),
        (lambda: Moments(sigma=np.eye(3), gamma=np.eye(2), gradients=ONES[:1]), "at least 2 batches"),
        (lambda: Moments(sigma=np.eye(3), gamma=np.eye(2), gradients=ONES, weights=np.array([1.0, 0])), "share"),
        (lambda: whiten(Moments(sigma=np.diag([1.0, 0, 0]), gamma=np.eye(2), gradients=ONES), 0.0), "raise damping"),
        (lambda: whiten(Moments(sigma=np.eye(3), gamma=np.eye(2), gradients=ONES), -1.0), "damping must be"),
        (lambda: whiten(Moments(sigma=np.eye(3), gamma=np.eye(2), gradients=ONES)).gain_b(np.eye(2)), "expected Q"),
        (lambda: whiten(Moments(sigma=np.eye(3), gamma=np.eye(2), gradients=ONES)).gain_a(np.eye(3)), "expected U"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
