"""Stochastic links against autograd, and their floors against the moments of a scalar problem."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from lopsided.lab.experiments.reshuffling import floors, gaps_of_both, link, orders
from lopsided.lab.projected_descent import draw_sketches
from lopsided.lab.regression_problems import Regression, draw_regression
from lopsided.method.dense import Orthonormal


def scalar(seeds):
    """The same problem of one weight and three samples in every run."""
    X, Y = np.array([1.0, -0.6, 0.8]), np.array([0.5, 1.0, -0.7])
    return Regression(np.tile(X[None, :, None], (seeds, 1, 1)), np.tile(Y[None, :, None], (seeds, 1, 1)))


def floor_of_sgd(x, error, step):
    """f - f* of the stationary e ← (1 - γx²)e + γxε, whose mean is 0 since x·ε sums to 0."""
    second = step**2 * np.mean((x * error) ** 2) / (1 - np.mean((1 - step * x**2) ** 2))
    return 0.5 * np.mean(x**2) * second


def floor_of_rr(x, error, step):
    """The same for whole passes, e ← a·e + b with b by the order, over all orders."""
    pushes = []
    for order in permutations(range(len(x))):
        b = 0.0
        for i in order:
            b = (1 - step * x[i] ** 2) * b + step * x[i] * error[i]
        pushes.append(b)
    a, b = np.prod(1 - step * x**2), np.array(pushes)
    mean = b.mean() / (1 - a)
    second = (2 * a * mean * b.mean() + np.mean(b**2)) / (1 - a**2)
    return 0.5 * np.mean(x**2) * second


@pytest.mark.parametrize("fraction", [0.9, 0.5])
def test_floors_of_one_weight_are_those_of_its_moments(fraction):
    problem = scalar(100)
    x = problem.X[0, :, 0]
    error = problem.Y[0, :, 0] - problem.best[0, 0, 0] * x
    step = fraction / (problem.smoothness[0] * 3)
    sgd, rr = floors(problem, fraction, r=1, settle=6, average=30).mean(axis=1)
    assert sgd == pytest.approx(floor_of_sgd(x, error, step), rel=0.1)
    assert rr == pytest.approx(floor_of_rr(x, error, step), rel=0.1)


def test_a_link_is_autograds_steps_on_b():
    problem = draw_regression(seeds=2, samples=5, d_in=6, d_out=3, noise=0.5)
    W = np.random.RandomState(0).standard_normal((2, 3, 6))
    A = draw_sketches(Orthonormal(), 2, 6, seeds=2, link=0)
    step = np.array([0.05, 0.1])
    after = link(W, A, problem.X, problem.Y, step)
    for run in range(2):
        B = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([B], lr=float(step[run]))
        whole, frozen = torch.from_numpy(W[run]), torch.from_numpy(A[run])
        for x, y in zip(problem.X[run], problem.Y[run], strict=True):
            optimizer.zero_grad()
            (0.5 * (((whole + B @ frozen) @ torch.from_numpy(x) - torch.from_numpy(y)) ** 2).sum()).backward()
            optimizer.step()
        np.testing.assert_allclose(after[run], (whole + B.detach() @ frozen).numpy(), atol=1e-12)


def test_orders_draw_for_sgd_and_pass_once_for_reshuffling():
    found = orders(500, 4, np.random.RandomState(0))
    sgd, rr = found[:500], found[500:]
    np.testing.assert_array_equal(np.sort(rr, axis=1), np.tile(np.arange(4), (500, 1)))
    assert np.mean([len(set(order)) < 4 for order in sgd]) == pytest.approx(1 - 24 / 256, abs=0.05)
    for column in rr.T:
        np.testing.assert_allclose(np.bincount(column) / 500, 0.25, atol=0.07)


def test_without_noise_both_reach_the_optimum():
    problem = draw_regression(seeds=3, samples=20, d_in=4, d_out=2, noise=0.0)
    gaps = gaps_of_both(problem, np.zeros((3, 2, 4)), 1 / (problem.smoothness * 20), r=2, links=300)
    assert gaps.shape == (2, 301, 3)
    assert (gaps[:, -1] < 1e-12 * gaps[:, 0]).all()
