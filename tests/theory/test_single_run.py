"""The single-run bound: by hand for one layer, above a supremum that can be computed, and with its probability."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lopsided import METHODS, LopsidedError, Method
from lopsided.method.dense import Gaussian
from lopsided.theory import FrozenLayer, covers, norm_of_gaussian, single_run_bound
from lopsided.theory.single_run import check_covers

GAUSSIAN = Method(name="mine", train="B", sketch=Gaussian(), source="here")


def test_one_layer_by_hand():
    layer = FrozenLayer(d_out=3, d_in=5, r=2, norm=1.5, std=0.4, norm_A=2.0, lipschitz=0.5)
    found = single_run_bound([layer], n=100, entry_bound=0.3, input_bound=4.0, loss_lipschitz=2.0, delta=0.1)
    moved = 0.5 * math.sqrt(3 * 2) * 2.0 * 4.0
    points = math.ceil(2 * 0.3 * 2.0 * moved * 10)
    assert found.lipschitz == pytest.approx(moved)
    assert found.trained == 6
    assert found.value == pytest.approx(0.1 + math.sqrt((6 * math.log(points) + math.log(20)) / 200))
    assert (found.lower, found.probability) == (0.1, 0.9)


def test_two_layers_move_as_much_as_a_network_can():
    """Λ bounds how far random networks move between two B's."""
    rng = np.random.RandomState(0)
    shapes, r, M, C = [(6, 5), (2, 6)], 2, 0.5, 1.5
    for _ in range(50):
        W = [rng.standard_normal(shape) for shape in shapes]
        A = [rng.standard_normal((r, d_in)) for _, d_in in shapes]
        layers = [
            FrozenLayer(d_out=o, d_in=i, r=r, norm=np.linalg.norm(w, 2), std=1.0, norm_A=np.linalg.norm(a, 2))
            for (o, i), w, a in zip(shapes, W, A)
        ]
        bound = single_run_bound(layers, n=10, entry_bound=M, input_bound=C, loss_lipschitz=1.0).lipschitz
        B, other = ([rng.uniform(-M, M, (o, r)) for o, _ in shapes] for _ in range(2))
        x = rng.standard_normal(5)
        x *= C / np.linalg.norm(x)
        y, z = x, x
        for w, a, b, c in zip(W, A, B, other):
            y, z = np.tanh((w + b @ a) @ y), np.tanh((w + c @ a) @ z)
        farthest = max(np.abs(b - c).max() for b, c in zip(B, other))
        assert np.linalg.norm(y - z) <= bound * farthest


def test_it_holds_over_draws_where_the_supremum_is_known():
    """A linear score with a linear loss: the supremum over |B| <= M of the gap is M·|A·(mean - E)|₁."""
    rng = np.random.RandomState(1)
    d, r, n, M = 6, 2, 64, 0.5
    broken = 0
    for _ in range(300):
        A = rng.standard_normal((r, d)) / math.sqrt(d)
        x = rng.choice([-1.0, 1.0], (n, d)) / math.sqrt(d)
        supremum = M * np.abs(A @ x.mean(0)).sum() / 2
        layer = FrozenLayer(d_out=1, d_in=d, r=r, norm=0.0, std=d**-0.5)
        bound = single_run_bound([layer], n=n, entry_bound=M, input_bound=1.0, loss_lipschitz=0.5, delta=0.05)
        broken += supremum > bound.value
    assert broken <= 0.05 * 300


@pytest.mark.parametrize("r", [1, 4, 9])
def test_the_norm_of_a_gaussian_is_exceeded_as_rarely_as_said(r):
    rng = np.random.RandomState(r)
    norms = [np.linalg.norm(rng.standard_normal((r, 16)) * 0.3, 2) for _ in range(2000)]
    assert np.mean(np.array(norms) > norm_of_gaussian(16, r, 0.3, failure=0.1)) <= 0.1


def test_the_rates_are_roots_of_r_over_n():
    def value(r: int, n: int) -> float:
        layer = FrozenLayer(d_out=48, d_in=48, r=r, norm=1.0, std=48**-0.5)
        return single_run_bound([layer], n=n, entry_bound=1.0, input_bound=1.0, loss_lipschitz=1.0).value

    assert math.log(value(8, 10**7) / value(8, 10**5)) / math.log(100) == pytest.approx(-0.5, abs=0.08)
    assert math.log(value(64, 10**6) / value(4, 10**6)) / math.log(16) == pytest.approx(0.5, abs=0.08)


def test_it_is_for_gaussian_factors_alone():
    assert covers(GAUSSIAN)
    assert not any(covers(method) for method in METHODS.values())
    for method in METHODS.values():
        with pytest.raises(LopsidedError, match="not covered"):
            check_covers(method)
    check_covers(GAUSSIAN)


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"entry_bound": -1.0}, {"input_bound": math.inf}, {"loss_lipschitz": 0}, {"delta": 1.0}]
)
def test_bad_numbers_are_one_line(wrong):
    layer = FrozenLayer(d_out=2, d_in=2, r=1, norm=1.0, std=1.0)
    asked = {"n": 10, "entry_bound": 1.0, "input_bound": 1.0, "loss_lipschitz": 1.0, "delta": 0.1} | wrong
    with pytest.raises(LopsidedError, match=next(iter(wrong))) as caught:
        single_run_bound([layer], **asked)
    assert "\n" not in str(caught.value)


def test_no_layers_are_one_line():
    with pytest.raises(LopsidedError, match="at least one layer"):
        single_run_bound([], n=1, entry_bound=1, input_bound=1, loss_lipschitz=1)
