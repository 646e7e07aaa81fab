"""λ_min(E[H]) and the rates, against draws and against descent on problems with known constants."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import pytest

from lopsided import LopsidedError
from lopsided.method import METHODS, selectors
from lopsided.method.dense import Gaussian, KaimingUniform, Orthonormal
from lopsided.method.selectors import Columns, Window
from lopsided.method.sketch import SKETCHES, Sketch
from lopsided.theory import Problem, coin_lambda, lambda_min, lambda_min_sampled, projection
from tests.diagonal import diagonal

RANDOM = [Orthonormal(), Gaussian(), Gaussian(std=1.0), KaimingUniform(), Columns(), Window("shuffled")]


@dataclass(frozen=True)
class Lopsidedly(Sketch):
    """Gaussian, with rows that lean to the first columns: no closed form."""

    def draw(self, r, d, *, seed, link, weight):
        return np.random.RandomState(seed).standard_normal((r, d)) * np.linspace(2.0, 0.5, d)


SKETCHES.pop("Lopsidedly")


def test_a_projection_is_one():
    S = np.random.RandomState(0).standard_normal((3, 7))
    H = projection(S)
    assert np.allclose(H, H.T)
    assert np.allclose(H @ H, H)
    assert np.trace(H) == pytest.approx(3)
    assert np.allclose(H @ S.T, S.T)
    assert np.trace(projection(np.vstack([S, S[:1]]))) == pytest.approx(3)


@pytest.mark.parametrize(("sketch", "shape"), diagonal(RANDOM, [(1, 4), (2, 8), (3, 6), (5, 5)], share=2), ids=str)
def test_the_closed_form_lies_in_the_interval_of_draws(sketch, shape):
    r, d = shape
    known = lambda_min(sketch, r, d)
    assert known.how == "closed form"
    sampled = lambda_min_sampled(sketch, r, d, draws=1500)
    assert sampled.low <= known.value + 1e-9
    assert known.value <= sampled.high + 1e-9
    assert sampled.value == pytest.approx(known.value, abs=0.06)


def test_a_fixed_selector_promises_nothing():
    assert lambda_min(Window("fixed"), 2, 8).value == 0.0
    assert lambda_min_sampled(Window("fixed"), 2, 8, draws=50).value == pytest.approx(0.0, abs=1e-12)


@pytest.mark.more
def test_a_sketch_of_a_users_own_gets_an_interval():
    found = lambda_min(Lopsidedly(), 2, 6, draws=4000)
    assert found.how == "Monte Carlo"
    truth = np.linalg.eigvalsh(
        np.mean([projection(Lopsidedly().sample(2, 6, seed=10**6 + i, link=0)) for i in range(20000)], axis=0)
    )[0]
    assert found.low <= truth <= found.high
    assert truth < 2 / 6


def test_a_coins_lambda_is_the_mean_of_its_sides():
    assert coin_lambda(0.25, 0.5, 0.1) == pytest.approx(0.2)
    p, d_out, d_in, r = METHODS["bernoulli"].p, 6, 4, 2
    rng, sketch = np.random.RandomState(0), METHODS["bernoulli"].sketch
    G, shares = rng.standard_normal((d_out, d_in)), []
    for seed in range(6000):
        if rng.uniform() < p:
            shares.append(np.sum((G @ projection(sketch.sample(r, d_in, seed=seed, link=0))) ** 2))
        else:
            shares.append(np.sum((projection(sketch.sample(r, d_out, seed=seed, link=0)) @ G) ** 2))
    expected = coin_lambda(p, lambda_min(sketch, r, d_in).value, lambda_min(sketch, r, d_out).value)
    assert np.mean(shares) / np.sum(G**2) == pytest.approx(expected, abs=0.01)


def quadratic(d: int = 8, d_out: int = 5, seed: int = 0):
    """(curvature, L, μ, W*) of f(W) = ½·Tr[(W - W*)·M·(W - W*)ᵀ]."""
    rng = np.random.RandomState(seed)
    eigen = np.linspace(0.3, 2.0, d)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return Q @ np.diag(eigen) @ Q.T, 2.0, 0.3, rng.standard_normal((d_out, d))


@pytest.mark.parametrize("sketch", [Orthonormal(), Columns(), Window("shuffled")], ids=str)
def test_descent_stays_under_the_linear_rate(sketch, monkeypatch):
    # A shuffled window's order is drawn from the first sweep on; here it is asked for at every link of every run.
    monkeypatch.setattr(selectors, "_permutation", functools.cache(selectors._permutation))
    M, L, mu, target = quadratic()
    runs, links, r, d = 200, 40, 2, 8
    W = np.zeros((runs, *target.shape))
    gaps = [0.5 * np.einsum("sij,jk,sik->s", W - target, M, W - target).mean()]
    for link in range(links):
        H = np.array([projection(sketch.sample(r, d, seed=seed, link=link)) for seed in range(runs)])
        W = W - (W - target) @ M @ H / L
        gaps.append(0.5 * np.einsum("sij,jk,sik->s", W - target, M, W - target).mean())
    problem = Problem(gap=gaps[0], smoothness=L, step=1 / L, lambda_min=lambda_min(sketch, r, d).value, pl=mu)
    for link, found in enumerate(gaps):
        assert found <= problem.gap_after(link) * 1.02
    needed = problem.links_needed(gaps[0] / 10)
    assert problem.gap_after(needed) <= gaps[0] / 10 < problem.gap_after(needed - 1)


def test_gradients_stay_under_the_general_rate():
    M, L, _, target = quadratic(seed=3)
    W, least, gap, d = np.zeros(target.shape), math.inf, 0.0, 8
    gap = 0.5 * np.trace((W - target) @ M @ (W - target).T)
    problem = Problem(gap=gap, smoothness=L, step=1 / L, lambda_min=2 / 8)
    for link in range(60):
        G = (W - target) @ M
        least = min(least, float(np.sum(G**2)))
        assert least <= problem.gradient_after(link + 1)
        W = W - G @ projection(Orthonormal().sample(2, d, seed=5, link=link)) / L
    assert problem.gradient_after(problem.links_needed(0.01)) <= 0.01


@pytest.mark.more
def test_noise_settles_under_its_floor():
    M, L, mu, target = quadratic(seed=1)
    runs, r, d, deviation, step = 200, 2, 8, 0.4, 0.2
    rng, W = np.random.RandomState(0), np.zeros((runs, *target.shape))
    settled = []
    for link in range(400):
        H = np.array([projection(Columns().sample(r, d, seed=seed, link=link)) for seed in range(runs)])
        noise = rng.standard_normal(W.shape) * deviation
        W = W - step * ((W - target) @ M + noise) @ H
        if link >= 200:
            settled.append(0.5 * np.einsum("sij,jk,sik->s", W - target, M, W - target).mean())
    problem = Problem(
        gap=1.0,
        smoothness=L,
        step=step,
        lambda_min=r / d,
        lambda_max=r / d,
        pl=mu,
        variance=deviation**2 * target.size,
    )
    assert 0 < np.mean(settled) <= problem.floor
    with pytest.raises(LopsidedError, match="noise's floor"):
        problem.links_needed(problem.floor / 2)


def test_the_whole_width_is_gradient_descent():
    problem = Problem(gap=4.0, smoothness=2.0, step=0.5, lambda_min=lambda_min(Orthonormal(), 6, 6).value, pl=2.0)
    assert problem.contraction == 0.0
    assert problem.links_needed(1e-9) == 1
    assert problem.links_needed(5.0) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lambda_min": 0.0}, "fixed selector"),
        ({"lambda_min": math.nan}, "fixed selector"),
        ({"step": 1.0}, "at most 1/L"),
        ({"gap": 0.0}, "gap"),
        ({"pl": 5.0}, "expected 0 < μ"),
        ({"variance": -1.0}, "variance"),
    ],
)
def test_bad_problems_are_one_line(wrong, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        Problem(**({"gap": 1.0, "smoothness": 2.0, "step": 0.5, "lambda_min": 0.25} | wrong))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Problem(gap=1, smoothness=2, step=0.5, lambda_min=0.25).contraction,
        lambda: Problem(gap=1, smoothness=2, step=0.5, lambda_min=0.25).floor,
        lambda: lambda_min_sampled(Columns(), 2, 4, draws=3),
        lambda: lambda_min_sampled(Columns(), 5, 4),
        lambda: coin_lambda(1.5, 0.1, 0.1),
    ],
)
def test_bad_input_is_one_line(call):
    with pytest.raises(LopsidedError) as caught:
        call()
    assert "\n" not in str(caught.value)
