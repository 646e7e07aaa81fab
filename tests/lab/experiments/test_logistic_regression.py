"""The non-convex logistic loss against autograd and its curvature, and what is read off its descents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lopsided.lab.experiments.logistic_regression import Logistic, draw_logistic, first_at_most, share_of_bound

PROBLEM = draw_logistic(seeds=2, samples=40)
W = 2 * np.random.RandomState(0).standard_normal((2, 10, 20))


def torch_value(problem, W):
    """The loss of each run, from PyTorch's own logistic loss."""
    X, Y = torch.from_numpy(problem.X), torch.from_numpy(problem.Y)
    loss = torch.nn.functional.softplus(-Y * (X @ W.transpose(1, 2))).sum(dim=(1, 2)) / X.shape[1]
    return loss + problem.regulariser * (W**2 / (1 + W**2)).sum(dim=(1, 2))


def test_value_and_gradient_are_autograds():
    weights = torch.from_numpy(W).requires_grad_()
    values = torch_value(PROBLEM, weights)
    values.sum().backward()
    np.testing.assert_allclose(PROBLEM.value(W), values.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(PROBLEM.gradient(W), weights.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(PROBLEM.squared_gradient(W), (weights.grad.numpy() ** 2).sum(axis=(1, 2)))


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 3.0])
def test_no_curvature_exceeds_the_smoothness(scale):
    """The Hessian of one output's weights; outputs don't meet in f."""
    one = Logistic(PROBLEM.X[:1, :, :], PROBLEM.Y[:1, :, :1], PROBLEM.regulariser)
    row = torch.from_numpy(scale * W[:1, :1])
    hessian = torch.autograd.functional.hessian(lambda W: torch_value(one, W).sum(), row).reshape(20, 20).numpy()
    curvatures = np.linalg.eigvalsh(hessian)
    assert curvatures[-1] <= one.smoothness[0] + 1e-12
    # At zero the bound is met by the regulariser and by the data alike, so that no lower one would do.
    if scale == 0:
        assert curvatures[-1] == pytest.approx(one.smoothness[0])


def test_the_loss_is_not_convex_at_the_start():
    one = Logistic(PROBLEM.X[:1], PROBLEM.Y[:1, :, :1], PROBLEM.regulariser)
    row = torch.from_numpy(W[:1, :1])
    hessian = torch.autograd.functional.hessian(lambda W: torch_value(one, W).sum(), row).reshape(20, 20).numpy()
    assert np.linalg.eigvalsh(hessian)[0] < 0


def test_labels_are_signs_and_about_one_in_ten_is_flipped():
    big = draw_logistic(seeds=1, samples=4000)
    assert set(np.unique(big.Y)) == {-1.0, 1.0}
    teacher = np.linalg.lstsq(big.X[0], big.Y[0], rcond=None)[0]
    wrong = np.mean(np.sign(big.X[0] @ teacher) != big.Y[0])
    assert wrong == pytest.approx(0.1, abs=0.03)


def test_the_first_link_at_the_target():
    squares = np.array([[4.0, 4.0, 4.0], [2.0, 1.0, 3.0], [1.0, 5.0, 2.0]])
    np.testing.assert_array_equal(first_at_most(squares, np.array([1.0, 1.0, 1.0])), [2, 1, np.nan])


def test_the_bounds_share_takes_the_least_so_far_and_one_link_less():
    """With ‖∇f‖² = 2·gap·L/share at link 0, the bound of one link is met; a later small value lowers all after it."""
    first = np.array([3.0, 5.0])
    of_one = 2 * first * PROBLEM.smoothness / 0.25
    assert share_of_bound(PROBLEM, np.array([of_one, of_one * 0]), first, 0.25).value == pytest.approx(1.0)
    squares = np.array([0.5, 0.1, 0.4, 0.0])[:, None] * of_one
    assert share_of_bound(PROBLEM, squares, first, 0.25).value == pytest.approx(max(0.5, 2 * 0.1, 3 * 0.1))
