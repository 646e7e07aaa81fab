"""The largest eigenvalue of matrices whose spectrum is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lopsided import LopsidedError
from lopsided.curvature.lanczos import largest_eigenvalue


def symmetric(eigenvalues, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    return (Q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ Q.T).to(dtype)


def start(n: int, seed: int = 1, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.integers(0, 100))
def test_all_steps_give_the_exact_largest_eigenvalue(eigenvalues, seed):
    H = symmetric(eigenvalues, seed)
    found = largest_eigenvalue(lambda q: H @ q, start(len(H), seed + 1), steps=len(H), tolerance=0.0)
    assert found.value == pytest.approx(max(eigenvalues), abs=1e-8)
    assert found.steps <= len(eigenvalues)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_one_and_not_the_largest_in_size(dtype):
    H = symmetric([-100.0, *torch.linspace(-1, 1, 60).tolist(), 3.0], dtype=dtype)
    found = largest_eigenvalue(lambda q: H @ q, start(len(H), dtype=dtype), steps=40)
    assert found.value == pytest.approx(3.0, rel=1e-4)
    assert found.steps < 40


def test_the_residual_is_the_true_one():
    H = symmetric(torch.linspace(0, 1, 80).tolist())
    for steps in (1, 3, 10):
        found = largest_eigenvalue(lambda q: H @ q, start(80), steps=steps, tolerance=0.0)
        assert found.steps == steps
        assert float(found.vector.norm()) == pytest.approx(1.0)
        true = float((H @ found.vector - found.value * found.vector).norm())
        assert found.residual == pytest.approx(true, rel=1e-6)
        assert found.residual > 1e-3
        # Some eigenvalue lies that near, and none above the largest is claimed.
        assert found.value <= 1.0


def test_no_copies_of_a_found_eigenvalue_come_back():
    # Without re-orthogonalisation, rounding in float32 finds the first one again and again; with it, as many steps as
    # there are different eigenvalues use the space up.
    H = symmetric([1e3] + [1.0] * 30 + [0.5] * 30, dtype=torch.float32)
    found = largest_eigenvalue(lambda q: H @ q, start(61, dtype=torch.float32), steps=50, tolerance=0.0)
    assert found.value == pytest.approx(1e3, rel=1e-5)
    assert found.steps <= 6


def test_a_matrix_of_zeros_has_the_value_zero():
    found = largest_eigenvalue(torch.zeros_like, start(5))
    assert (found.value, found.residual, found.steps) == (0.0, 0.0, 1)


@pytest.mark.parametrize(
    ("product", "vector", "steps", "message"),
    [
        (torch.zeros_like, torch.ones(3), 0, "at least 1 step"),
        (torch.zeros_like, torch.zeros(3), 5, "positive, finite norm, got 0.0"),
        (lambda q: q * float("nan"), torch.ones(3), 5, "NaN or Inf in product 1"),
    ],
)
def test_bad_input(product, vector, steps, message):
    with pytest.raises(LopsidedError, match=message):
        largest_eigenvalue(product, vector, steps=steps)
