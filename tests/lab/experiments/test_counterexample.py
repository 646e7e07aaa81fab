"""The counterexample's steps against autograd, and its figures from a few seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lopsided.lab import Request, verdict
from lopsided.lab.experiments import counterexample


def test_the_gradient_is_autograds_and_the_optimum_has_none():
    W = torch.randn(1, 3, 3, dtype=torch.float64, requires_grad=True)
    value = (0.5 * torch.tensor(counterexample.CURVATURE) * W**2 + counterexample.SLOPE * W).sum()
    value.backward()
    assert np.allclose(counterexample.gradient(W.detach().numpy()), W.grad.numpy())
    best = -counterexample.SLOPE / counterexample.CURVATURE[None]
    assert np.allclose(counterexample.gradient(best), 0)
    assert counterexample.relative_gap(best) == pytest.approx(0)
    assert counterexample.relative_gap(np.zeros((1, 3, 3))) == pytest.approx(1)


def test_both_factors_step_down_their_own_gradients():
    rng = np.random.RandomState(0)
    W0, B, A = rng.standard_normal((1, 3, 3)), rng.standard_normal((1, 3, 1)), rng.standard_normal((1, 1, 3))
    tB, tA = (torch.tensor(x, requires_grad=True) for x in (B, A))
    W = torch.tensor(W0) + tB @ tA
    (0.5 * torch.tensor(counterexample.CURVATURE) * W**2 + counterexample.SLOPE * W).sum().backward()
    _, new_B, new_A = counterexample.both(W0, B, A)
    assert np.allclose(new_B, B - tB.grad.numpy() / counterexample.L)
    assert np.allclose(new_A, A - tA.grad.numpy() / counterexample.L)


def test_the_exact_step_is_a_projected_gradient_step_of_the_weight():
    rng = np.random.RandomState(1)
    W0, B, A = rng.standard_normal((1, 3, 3)), rng.standard_normal((1, 3, 1)), rng.standard_normal((1, 1, 3))
    _, new_B, _ = counterexample.exact(W0, B, A)
    H = A[0].T @ A[0] / np.sum(A**2)
    expected = W0 + B @ A - counterexample.gradient(W0 + B @ A) @ H / counterexample.L
    assert np.allclose(W0 + new_B @ A, expected)


def test_the_claim_holds_as_far_as_forty_runs_can_tell():
    outcome = counterexample.run(Request(size="full"))
    states = [e.judge(m) for e, m in zip(counterexample.EXPERIMENT.expected, outcome.measured, strict=True)]
    assert [found.state for found in states] == ["holds", "holds", "undecided", "holds"]
    assert states[2].why == "its interval crosses 0.6"
    assert verdict(counterexample.EXPERIMENT, outcome) == "undecided"


def test_one_run_decides_nothing():
    outcome = counterexample.run(Request(seeds=1))
    assert {e.judge(m).state for e, m in zip(counterexample.EXPERIMENT.expected, outcome.measured)} == {"undecided"}
