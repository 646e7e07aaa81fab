"""Sketches that are drawn from the second moments of a layer's inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopsided import InputMoments, LargestColumns, LopsidedError, Orthonormal, Principal, Sketch
from lopsided.method import Columns, from_inputs, method_from_parts, method_named
from lopsided.testing import check_sketch


def moments(x: np.ndarray) -> InputMoments:
    return InputMoments(rows=len(x), squares=np.mean(x**2, axis=0), products=x.T @ x / len(x))


def inputs(d: int, *, rows: int = 200, seed: int = 0) -> np.ndarray:
    """Inputs with a mean, and with directions and columns of different sizes."""
    rng = np.random.RandomState(seed)
    mix = np.linalg.qr(rng.standard_normal((d, d)))[0] * np.linspace(0.2, 3.0, d)
    return rng.standard_normal((rows, d)) @ mix.T + rng.standard_normal(d)


def draw(sketch: Sketch, r: int, x: np.ndarray) -> np.ndarray:
    return sketch.sample(r, x.shape[1], seed=0, link=0, inputs=moments(x)).astype(np.float64)


@pytest.mark.parametrize("sketch", [Principal(), LargestColumns()], ids=str)
def test_contracts(sketch):
    check_sketch(sketch)


@given(d=st.integers(2, 24), share=st.floats(0.01, 1.0), seed=st.integers(0, 99))
def test_principal_rows_are_those_of_the_singular_value_decomposition(d, share, seed):
    r, x = max(1, round(share * d)), inputs(d, seed=seed)
    S = draw(Principal(), r, x)
    expected = np.linalg.svd(x, full_matrices=False)[2][:r]
    # Each row up to its sign, the largest first.
    np.testing.assert_allclose(np.abs((S * expected).sum(1)), 1.0, atol=1e-5)
    np.testing.assert_allclose(S @ S.T, np.eye(r), atol=1e-5)
    assert (S[np.arange(r), np.abs(S).argmax(1)] > 0).all()


def lost(S: np.ndarray, x: np.ndarray) -> float:
    """The mean of ‖x − SᵀS·x‖²."""
    return float(np.mean(np.sum((x - x @ S.T @ S) ** 2, axis=1)))


@given(r=st.integers(1, 15), seed=st.integers(0, 99))
def test_principal_loses_least_and_the_largest_columns_least_of_all_columns(r, seed):
    d = 16
    x = inputs(d, seed=seed)
    best, columns = draw(Principal(), r, x), draw(LargestColumns(), r, x)
    others = [Orthonormal().sample(r, d, seed=k, link=0) for k in range(5)]
    selectors = [Columns().sample(r, d, seed=k, link=0) for k in range(5)]
    assert all(lost(best, x) <= lost(S, x) + 1e-6 for S in (*others, *selectors, columns))
    assert all(lost(columns, x) <= lost(S, x) + 1e-6 for S in selectors)


def test_wide_layers_take_the_same_directions_by_lanczos_iterations(monkeypatch):
    x = inputs(96)
    whole = draw(Principal(), 5, x)
    monkeypatch.setattr(from_inputs, "DENSE_WIDTH", 32)
    monkeypatch.setattr(from_inputs.scipy.linalg, "eigh", None)
    lanczos = draw(Principal(), 5, x)
    np.testing.assert_allclose(lanczos, whole, atol=1e-5)
    assert np.array_equal(lanczos, draw(Principal(), 5, x))


def test_columns_are_sorted_and_of_equal_ones_the_first_are_taken():
    x = np.array([[1.0, 3.0, 2.0, 3.0, 0.0]])
    assert LargestColumns().indices(3, 5, seed=4, link=0, inputs=moments(x)).tolist() == [1, 2, 3]
    assert LargestColumns().indices(2, 5, seed=4, link=0, inputs=moments(np.ones((1, 5)))).tolist() == [0, 1]


def test_columns_need_no_products():
    squares = InputMoments(rows=3, squares=np.array([1.0, 4.0, 9.0]))
    assert LargestColumns().indices(1, 3, seed=0, link=0, inputs=squares).tolist() == [2]


@pytest.mark.parametrize(
    ("sketch", "given", "words"),
    [
        (Principal(), None, ["Principal", "lopsided.calibrate(model, batches)"]),
        (LargestColumns(), None, ["LargestColumns", "lopsided.calibrate(model, batches)"]),
        (Principal(), InputMoments(rows=9, squares=np.ones(4)), ["squares alone", "products="]),
        (Principal(), moments(inputs(5)), ["width 5", "d=4"]),
        (LargestColumns(), InputMoments(rows=9, squares=np.ones(3)), ["width 3", "d=4"]),
        (Principal(), moments(inputs(4, rows=1)), ["r=2", "has seen 1", "more rows"]),
    ],
)
def test_moments_that_do_not_fit_are_refused_in_one_line(sketch, given, words):
    with pytest.raises(LopsidedError) as error:
        sketch.sample(2, 4, seed=0, link=0, inputs=given)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_a_drawn_sketch_has_no_fit_to_inputs():
    with pytest.raises(LopsidedError, match="Orthonormal reads no inputs"):
        Orthonormal().fit(2, 4, seed=0, link=0, weight=None, inputs=moments(inputs(4)))


@pytest.mark.parametrize(
    ("name", "numbers"), [("ipa_b", 3 * 7), ("act_cla", 3), ("asym_b", 0), ("rcla", 0), ("lora", 0)]
)
def test_what_the_rows_decide_next_to_the_trained_numbers(name, numbers):
    assert method_named(name).data_numbers(7, 3) == numbers


@pytest.mark.parametrize("name", ["ipa_b", "act_cla"])
def test_methods_that_read_data_say_so(name):
    method = method_named(name)
    assert method.reads_inputs
    assert method_from_parts(method.parts()).reads_inputs
    assert not method_named("rcla").reads_inputs
    assert not method_named("full").reads_inputs
