"""Sketches: pure, as distributed as they say, and covering what they promise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopsided import Columns, Gaussian, KaimingUniform, LopsidedError, Orthonormal, Selector, Singular, Sketch, Window
from lopsided.method import RandomWindow, UnitRows
from lopsided.method.sketch import Stored, checksum, layer_seed, sketch_from_parts, sketch_named
from lopsided.testing import SKETCH_CONTRACTS, check_sketch
from tests.diagonal import diagonal

SKETCHES = [
    Orthonormal(),
    Gaussian(),
    Gaussian(std=1.0),
    KaimingUniform(),
    Singular("top"),
    Singular("last"),
    Window("fixed"),
    Window("cyclic"),
    Window("shuffled"),
    Columns(),
    RandomWindow(),
    RandomWindow(shared_seed=0),
    UnitRows(),
    UnitRows(shared_seed=0),
]


@pytest.mark.parametrize("contract", SKETCH_CONTRACTS, ids=lambda contract: contract.__name__)
@pytest.mark.parametrize("sketch", SKETCHES, ids=str)
def test_contract(sketch, contract):
    contract(sketch)


@pytest.mark.parametrize("sketch", SKETCHES, ids=str)
def test_parts_round_trip(sketch):
    assert sketch_from_parts(sketch.parts()) == sketch


@given(d=st.integers(1, 40), data=st.data())
def test_a_sweep_of_windows_covers_every_column(d, data):
    r = data.draw(st.integers(1, d))
    links = -(-d // r)
    for sketch in (Window("cyclic"), Window("shuffled")):
        for sweep in range(3):
            seen = {int(c) for k in range(links) for c in sketch.indices(r, d, seed=7, link=sweep * links + k)}
            assert seen == set(range(d))


@given(count=st.integers(2, 9), seed=st.integers(0, 1000))
def test_a_shuffled_chain_never_repeats_a_window_and_draws_a_new_order_each_sweep(count, seed):
    windows = [Window("shuffled").indices(2, 2 * count, seed=seed, link=k)[0] for k in range(4 * count)]
    assert all(a != b for a, b in pairwise(windows))
    sweeps = [tuple(windows[i * count : (i + 1) * count]) for i in range(4)]
    assert all(sorted(sweep) == sorted(sweeps[0]) for sweep in sweeps)
    assert count < 5 or len(set(sweeps)) > 1


@pytest.mark.parametrize(
    ("shape", "sketch"),
    diagonal([(2, 6), (2, 5), (3, 3)], [s for s in SKETCHES if not isinstance(s, Singular)], share=3),
    ids=str,
)
def test_lambda_min_agrees_with_monte_carlo(sketch, shape):
    r, d = shape
    draws = 4000 if sketch.random else 1
    # One stream of seeds, since neighbouring integers are as good as hashed ones here.
    S = np.stack([sketch.sample(r, d, seed=seed, link=0) for seed in range(draws)]).astype(np.float64)
    across = S.transpose(0, 2, 1)
    measured = np.linalg.eigvalsh((across @ np.linalg.pinv(S @ across) @ S).mean(axis=0))[0]
    assert measured == pytest.approx(sketch.lambda_min(r, d), abs=0.03)


def test_a_layers_seed_is_a_stable_hash_of_its_plain_name():
    assert layer_seed(0, "encoder.0.query") == 997646850907821301
    assert layer_seed(0, "module._orig_mod.encoder.0.query") == layer_seed(0, "encoder.0.query")
    assert layer_seed(1, "encoder.0.query") != layer_seed(0, "encoder.0.query")


@pytest.mark.parametrize(
    ("sketch", "golden"),
    [
        (Orthonormal(), 0.020539),
        (Gaussian(), 0.474414),
        (KaimingUniform(), 0.404010),
        (Columns(), 0.065412),
        (Window("shuffled"), -0.083918),
        (RandomWindow(), -1.901136),
        (UnitRows(), 0.565486),
    ],
    ids=str,
)
def test_draws_are_the_same_on_every_machine(sketch, golden):
    S = sketch.sample(2, 8, seed=12345678901234, link=3)
    assert checksum(S) == pytest.approx(golden, abs=2e-6)


def test_scales():
    big = {type(s).__name__ + str(i): s.sample(200, 300, seed=1, link=0) for i, s in enumerate(SKETCHES[:4])}
    norms = [float(np.mean(np.sum(S.astype(np.float64) ** 2, axis=1))) for S in big.values()]
    assert norms == pytest.approx([1.0, 1.0, 300.0, 1.0 / 3.0], rel=0.02)


def test_singular_vectors_are_those_of_the_weight():
    W = np.random.RandomState(0).standard_normal((5, 8)).astype(np.float32)
    _, values, Vt = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    top = Singular("top").sample(2, 8, seed=0, link=0, weight=W)
    assert np.abs(top @ Vt[:2].T) == pytest.approx(np.eye(2), abs=1e-5)
    second = Singular("top").sample(2, 8, seed=0, link=1, weight=W)
    assert np.abs(second @ Vt[2:4].T) == pytest.approx(np.eye(2), abs=1e-5)
    # The last right singular vectors of a wide matrix span what it maps to zero.
    last = Singular("last").sample(2, 8, seed=0, link=0, weight=W)
    assert pytest.approx(np.zeros((5, 2)), abs=1e-5) == W @ last.T
    left = Singular("top").sample(1, 5, seed=0, link=0, weight=W.T)
    assert np.linalg.norm(left @ W) == pytest.approx(values[0], rel=1e-5)


def test_the_checksum_sees_order_and_sign():
    S = Orthonormal().sample(3, 8, seed=0, link=0)
    others = [S[::-1], S[:, ::-1], -S, S + np.eye(3, 8, dtype=np.float32) * 1e-3]
    assert all(abs(checksum(S) - checksum(other)) > 1e-5 for other in others)


def test_an_unknown_class_becomes_stored_and_says_so_when_drawn():
    sketch = sketch_from_parts({"kind": "Elsewhere", "width": 3})
    assert isinstance(sketch, Stored)
    assert sketch.parts() == {"kind": "Elsewhere", "width": 3}
    with pytest.raises(LopsidedError, match="'Elsewhere' is not defined"):
        sketch.sample(2, 4, seed=0, link=0)


def test_bad_sketches_are_refused():
    with pytest.raises(LopsidedError, match=r"unknown sketch 'Windw'.*Columns.*did you mean 'Window'"):
        sketch_named("Windw")
    with pytest.raises(LopsidedError, match=r"fixed, cyclic, shuffled, got 'cyclc'.*did you mean 'cyclic'"):
        Window("cyclc")
    with pytest.raises(LopsidedError, match="pass weight=W0"):
        Singular().sample(2, 4, seed=0, link=0)
    with pytest.raises(LopsidedError, match="upgrade lopsided"):
        sketch_from_parts({"kind": "Window", "slant": 3})


def test_contracts_can_fail():
    class Repeats(Selector):
        def choose(self, r, d, *, seed, link):
            return np.zeros(r, dtype=np.int64)

    class Impure(Sketch):
        def draw(self, r, d, *, seed, link, weight):
            return np.random.standard_normal((r, d))

    class FewSeeds(Sketch):
        def draw(self, r, d, *, seed, link, weight):
            return np.random.RandomState([seed % 2, link]).standard_normal((r, d))

    with pytest.raises(AssertionError, match="differs_as_it_says"):
        check_sketch(FewSeeds())
    with pytest.raises(LopsidedError, match="distinct columns"):
        check_sketch(Repeats())
    with pytest.raises(AssertionError, match="is_a_pure_function"):
        check_sketch(Impure())
