"""Chains of projected steps on linear regression, against autograd, brute force and gradient descent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lopsided.lab.experiments.linear_regression import EXPERIMENT, gaps_by_link, share_of_bound
from lopsided.lab.projected_descent import curve, descend, draw_sketches, project, rate
from lopsided.lab.protocol import Request
from lopsided.lab.regression_problems import draw_regression
from lopsided.method.dense import Gaussian, Orthonormal
from lopsided.theory import projection

PROBLEM = draw_regression(seeds=3, samples=30, d_in=6, d_out=4, noise=0.5)


def loss(problem, W):
    return ((problem.X @ W.transpose(0, 2, 1) - problem.Y) ** 2).sum(axis=(1, 2)) / (2 * problem.X.shape[1])


def test_the_gap_is_the_difference_of_losses():
    W = np.random.RandomState(3).standard_normal((3, 4, 6))
    assert PROBLEM.gap(W) == pytest.approx(loss(PROBLEM, W) - loss(PROBLEM, PROBLEM.best), rel=1e-9)


def test_the_gradient_is_autograds():
    W = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    X, Y = torch.from_numpy(PROBLEM.X), torch.from_numpy(PROBLEM.Y)
    (((X @ W.transpose(1, 2) - Y) ** 2).sum() / (2 * X.shape[1])).backward()
    np.testing.assert_allclose(PROBLEM.gradient(W.detach().numpy()), W.grad.numpy(), atol=1e-10)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_step_is_the_exact_step_of_the_trained_factor(side):
    """η(BᵀB)⁺Bᵀ∇f on A, or its mirror on B, put back into W."""
    G = np.random.RandomState(4).standard_normal((3, 4, 6))
    S = draw_sketches(Gaussian(), 2, 6 if side == "right" else 4, seeds=3, link=5)
    for one, G_one, S_one in zip(project(G, S, side), G, S, strict=True):
        if side == "right":
            expected = (G_one @ S_one.T @ np.linalg.pinv(S_one @ S_one.T)) @ S_one
            np.testing.assert_allclose(one, G_one @ projection(S_one), atol=1e-12)
        else:
            B = S_one.T
            expected = B @ (np.linalg.pinv(B.T @ B) @ B.T @ G_one)
        np.testing.assert_allclose(one, expected, atol=1e-12)


def test_every_run_and_link_has_a_sketch_of_its_own():
    S = np.stack([draw_sketches(Orthonormal(), 2, 6, seeds=3, link=link) for link in range(2)]).reshape(6, -1)
    assert len(np.unique(S[:, 0])) == 6


@pytest.mark.parametrize(("side", "r"), [("right", 6), ("left", 4)])
def test_a_sketch_of_full_rank_is_gradient_descent(side, r):
    gaps = gaps_by_link(PROBLEM, np.zeros((3, 4, 6)), side, r, horizon=7)
    W = np.zeros((3, 4, 6))
    for _ in range(7):
        W = W - PROBLEM.gradient(W) / PROBLEM.smoothness[:, None, None]
    assert gaps.shape == (8, 3)
    np.testing.assert_allclose(gaps[-1], PROBLEM.gap(W), rtol=1e-9)


def test_a_rate_is_one_less_the_factor_of_a_link():
    gaps = 5 * 0.75 ** np.arange(9)[:, None] * np.ones((1, 2))
    assert rate(gaps) == pytest.approx([0.25, 0.25])


def test_the_bounds_share_is_one_where_the_gap_is_the_bound_and_sees_a_breach():
    factors = 1 - PROBLEM.pl / PROBLEM.smoothness / 3
    gaps = factors ** np.arange(6)[:, None]
    assert share_of_bound(PROBLEM, gaps, 1 / 3).value == pytest.approx(1.0)
    gaps[4] *= 1.5
    assert share_of_bound(PROBLEM, gaps, 1 / 3).value == pytest.approx(1.5)


def test_descent_ends_once_every_run_has_been_at_its_target():
    halve = {"gradient": lambda W: W, "measure": lambda W: W[:, 0, 0], "W": np.ones((2, 1, 1))}
    plan = {"step": np.array([0.5, 0.75]), "sketch": Orthonormal(), "r": 1, "side": "right"}
    seen = descend(**halve, **plan, links=50, target=np.array([0.13, 0.13]))
    np.testing.assert_allclose(seen, [[1, 1], [0.5, 0.25], [0.25, 0.0625], [0.125, 0.25**3]])
    assert len(descend(**halve, **plan, links=2, target=np.array([0.13, 0.13]))) == 3


def test_a_curve_has_the_mean_and_at_most_some_points():
    values = np.arange(1000.0)[:, None] + np.arange(11)
    line = curve("name", np.arange(1000), values)
    assert len(line.x) == len(line.y) == len(line.low) == 200
    assert (line.x[1], line.y[1], line.low[1], line.high[1]) == (5, 10.0, 6.0, 14.0)


def test_it_runs():
    outcome = EXPERIMENT.run(Request(seeds=3))
    assert len(outcome.measured) == len(EXPERIMENT.expected)
    assert outcome.measured[2].value > 0
