"""Federated rounds against autograd, by hand, and by the library's own parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lopsided.lab import federated_digits
from lopsided.lab.digit_halves import built_in
from lopsided.lab.experiments import federated
from lopsided.lab.experiments.federated import EXPERIMENT, RANKS, first_difference, floor, quadratics, rounds_to
from lopsided.lab.federated_digits import Federation, federate, pretrained
from lopsided.lab.federated_quadratic import (
    RoundSetting,
    averaged,
    effective_rank,
    fedavg,
    local_steps,
    run_rounds,
    sketches_of,
)
from lopsided.lab.protocol import Request


def problem_and_start(seeds=2):
    problem = quadratics(seeds, skew=1.0, own=True)
    W = np.random.RandomState(0).standard_normal(problem.best.shape)
    return problem, W


def test_local_steps_are_autograds_on_the_rows_that_train():
    problem, W = problem_and_start()
    setting = RoundSetting(r=8, epochs=3, ranks=RANKS)
    _, A = sketches_of(setting, seeds=2, clients=8, d=W.shape[2], number=0)
    start = np.random.RandomState(1).standard_normal((2, W.shape[1], 8))
    own = local_steps(problem, W, A, start, setting)
    for m in (0, 1):
        B = torch.from_numpy(start[0]).clone().requires_grad_(True)
        optimizer = torch.optim.SGD([B], lr=1.0)
        for _ in range(3):
            optimizer.zero_grad()
            error = torch.from_numpy(W[0]) + B @ torch.from_numpy(A[0, m]) - torch.from_numpy(problem.optima[0, m])
            (0.5 * ((error @ torch.from_numpy(np.array(problem.H[0, m]))) * error).sum()).backward()
            B.grad[:, RANKS[m] :] = 0.0
            optimizer.step()
        np.testing.assert_allclose(own[0, m], B.detach().numpy(), atol=1e-10)


@pytest.mark.parametrize("fill", ["who trained it", "zeros"])
def test_the_average_is_by_row(fill):
    own = np.random.RandomState(0).standard_normal((2, 8, 3, 8))
    mean = averaged(own, RoundSetting(r=8, epochs=1, ranks=RANKS, fill=fill))
    trained = np.array([[row < rank for row in range(8)] for rank in RANKS])
    total = (own * trained[None, :, None, :]).sum(axis=1)
    count = trained.sum(axis=0) if fill == "who trained it" else 8
    np.testing.assert_allclose(mean, total / count, atol=1e-6)


def test_a_sketch_of_all_rows_is_fedavg():
    problem, _ = problem_and_start()
    rounds = run_rounds(problem, RoundSetting(r=32, epochs=3), 4)
    # The average is in float32.
    np.testing.assert_allclose(rounds, fedavg(problem, 3, 4), rtol=1e-4)
    assert (rounds[-1] < rounds[0]).all()


def test_the_best_weights_have_no_gap_and_no_gradient():
    problem, W = problem_and_start()
    assert np.abs(problem.gap(problem.best)).max() < 1e-12
    assert (problem.gap(W) > 0).all()
    gradient = ((problem.best[:, None] - problem.optima) @ problem.H).mean(axis=1)
    assert np.abs(gradient).max() < 1e-10


def test_own_sketches_are_nobody_elses():
    server, own = sketches_of(RoundSetting(r=4, epochs=1, shared=False), seeds=2, clients=3, d=8, number=1)
    everything = [*server, *own.reshape(-1, 4, 8)]
    assert len({each.tobytes() for each in everything}) == 2 + 6
    server, own = sketches_of(RoundSetting(r=4, epochs=1), seeds=2, clients=3, d=8, number=1)
    assert all(np.array_equal(own[:, m], server) for m in range(3))


def test_one_step_from_zero_does_not_couple_rows():
    # The gradient of a row at B = 0 does not depend on the other rows, whatever the curvature.
    assert first_difference(quadratics(2), 1) < 1e-6
    assert first_difference(quadratics(2), 8) > 1e-3


def test_figures_of_gaps():
    gaps = np.array([[4.0, 4.0], [1.0, 3.0], [0.04, 2.0], [0.02, 1.0]])
    np.testing.assert_array_equal(rounds_to(gaps, 0.01), [2, np.nan])
    np.testing.assert_allclose(floor(gaps), [0.005, 0.25])
    assert effective_rank(np.diag([1.0, 0.0])[None])[0] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def digits():
    return built_in([0])


@pytest.fixture(scope="module")
def net(digits):
    return pretrained(digits, 0)


SMALL = Federation(rounds=2, epochs=1, clients=2)


def test_averages_of_one_factor_are_exact_on_digits_and_the_others_are_not(digits, net):
    shared = federate(net, digits, SMALL, seed=0)
    assert len(shared.accuracy) == 3
    assert shared.error < 1e-5
    assert shared.accuracy[-1] != shared.accuracy[0]
    for other in (dataclasses.replace(SMALL, shared=False), dataclasses.replace(SMALL, method="cola")):
        assert federate(net, digits, other, seed=0).error > 1e-4


def test_unequal_ranks_on_digits(digits, net):
    by_row = dataclasses.replace(SMALL, low_rank=1)
    zeros = dataclasses.replace(by_row, fill="zeros")
    curves = [federate(net, digits, how, seed=0) for how in (SMALL, by_row, zeros)]
    assert len({tuple(each.accuracy) for each in curves}) == 3
    # With zeros, the average of the factor is that of what clients changed; by row it is not meant to be.
    assert curves[2].error < 1e-5 < curves[1].error


def test_the_network_has_learned_the_first_half(digits, net):
    assert federated_digits.accuracy(net, digits, digits.test[0][0]) > 90
    assert federated_digits.accuracy(net, digits, digits.test[1][0]) < 60


@pytest.mark.more
def test_the_quick_form_measures_every_figure(monkeypatch):
    monkeypatch.setattr(
        federated, "FEDERATIONS", {k: dataclasses.replace(v, epochs=1) for k, v in federated.FEDERATIONS.items()}
    )
    outcome = EXPERIMENT.run(Request(size="quick", seeds=2))
    assert len(outcome.measured) == len(EXPERIMENT.expected)
    assert {drawing.name for drawing in outcome.plots} == {"sketches", "drift", "ranks", "digits"}
