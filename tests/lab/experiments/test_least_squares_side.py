"""The descent against a solver, the draws' law, and the experiment with few draws."""

from __future__ import annotations

import numpy as np
import pytest

from lopsided.lab import Request, verdict
from lopsided.lab.experiments.least_squares_side import (
    EXPERIMENT,
    duels,
    errors_of_closed_forms,
    frame,
    gap_ratios,
    loss_after_descent,
    update,
    variances,
)
from lopsided.theory import tune_b_condition


@pytest.mark.parametrize("side", ["B", "A"])
def test_descent_ends_where_least_squares_does(side):
    """Σ is the covariance of rows X, so that the loss is a sum of squares that lstsq solves."""
    draw = np.random.RandomState(0)
    X, delta = draw.standard_normal((40, 7)), draw.standard_normal((5, 7))
    sigma, target = X.T @ X / 40, X @ delta.T
    Q, U = frame(draw, 7, 2).T, frame(draw, 5, 2)
    if side == "B":
        B = np.linalg.lstsq(X @ Q.T, target, rcond=None)[0]
        left = target - X @ Q.T @ B
    else:
        A = np.linalg.lstsq(X, target @ U, rcond=None)[0]
        left = target - X @ A @ U.T
    found = loss_after_descent(delta, sigma, Q if side == "B" else U, side, 500)
    assert found == pytest.approx(np.sum(left**2) / 40)


def test_closed_forms_agree_with_descent_only_once_it_is_done():
    assert errors_of_closed_forms(3).max() < 1e-9
    assert errors_of_closed_forms(3, steps=2).max() > 1e-3


def test_frames_are_orthonormal_and_have_no_preferred_sign():
    draw = np.random.RandomState(0)
    frames = np.array([frame(draw, 6, 3) for _ in range(400)])
    np.testing.assert_allclose(frames.transpose(0, 2, 1) @ frames, np.broadcast_to(np.eye(3), (400, 3, 3)), atol=1e-12)
    assert abs(frames[:, 0, 0].mean()) < 4 / np.sqrt(6 * 400)


def test_the_settings_are_on_the_sides_of_the_condition_that_they_claim():
    draw = np.random.RandomState(0)
    for setting, above in (("mild", True), ("steep", True), ("low-variance", False)):
        sigma, delta = np.diag(variances(setting, 64)), update(setting, 64, draw)
        assert np.all(np.diff(np.diag(sigma)) < 0)
        assert (tune_b_condition(sigma, delta).ratio > 1) is above
    assert tune_b_condition(np.diag(variances("equal", 64)), update("equal", 64, draw)).ratio == pytest.approx(1)


def test_duels_leave_shares_of_the_loss_and_equal_inputs_have_no_winner():
    losses = duels("equal", 32, 200)
    assert np.all((losses > 0) & (losses < 1))
    # Both leave 1 - r/d of the loss on average.
    assert losses.mean(axis=0) == pytest.approx([0.75, 0.75], abs=0.01)
    assert 0.3 < (losses[:, 0] <= losses[:, 1]).mean() < 0.7


def test_the_expected_gap_is_a_mean():
    assert gap_ratios(60).mean() == pytest.approx(1, abs=0.03)
    assert gap_ratios(60).std() > 0


def test_it_runs_and_its_last_plot_has_a_diagonal(monkeypatch):
    monkeypatch.setattr("lopsided.lab.experiments.least_squares_side.WIDTHS", (16, 32))
    monkeypatch.setattr("lopsided.lab.experiments.least_squares_side.COUNTER_WIDTH", 32)
    outcome = EXPERIMENT.run(Request(seeds=3))
    # Of a few draws the shares have wide intervals, even where every one of them came out.
    assert verdict(EXPERIMENT, outcome) == "undecided"
    diagonal = outcome.plots[1].lines[1]
    assert diagonal.x == diagonal.y
