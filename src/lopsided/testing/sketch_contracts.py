"""What every sketch must do. A broken contract is an `AssertionError`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.method.input_moments import InputMoments
from lopsided.method.sketch import Selector, Sketch, layer_seed


def _draw(sketch: Sketch, r: int = 3, d: int = 8, *, seed: int = 5, link: int = 0) -> np.ndarray:
    weight = np.random.RandomState(0).standard_normal((6, d)).astype(np.float32)
    return sketch.sample(r, d, seed=seed, link=link, weight=weight, inputs=_inputs(d))


def _inputs(d: int) -> InputMoments:
    """Return the moments of 4·d inputs, whose entries differ in size."""
    x = np.random.RandomState(1).standard_normal((4 * d, d)) * np.linspace(0.5, 2.0, d)
    return InputMoments(rows=len(x), squares=np.mean(x**2, axis=0), products=x.T @ x / len(x))


def has_the_right_shape(sketch: Sketch) -> None:
    """Check that a draw is (r, d) of float32 with independent rows, for narrow and full ranks."""
    for r, d in ((1, 1), (1, 8), (3, 8), (8, 8)):
        S = _draw(sketch, r, d)
        assert S.shape == (r, d), f"shape {S.shape} for (r, d) = {(r, d)}"
        assert S.dtype == np.float32, f"dtype {S.dtype}, expected float32"
        # At full rank about half of all draws of random signs are singular.
        seeds = range(5, 6) if r < d else range(5, 14)
        independent = any(np.linalg.matrix_rank(_draw(sketch, r, d, seed=seed)) == r for seed in seeds)
        assert independent, f"rows are dependent for (r, d) = {(r, d)}"


def is_a_pure_function(sketch: Sketch) -> None:
    """Check that two draws of one seed and link are equal."""
    for link in range(3):
        first, second = _draw(sketch, link=link), _draw(sketch, link=link)
        assert np.array_equal(first, second), f"two draws of link {link} differ"


def differs_as_it_says(sketch: Sketch) -> None:
    """Check that a random sketch differs between layers."""
    # So wide that even a draw among disjoint windows hardly ever falls on the same one twice.
    seeds = [layer_seed(0, f"layer.{i}") for i in range(12)]
    distinct = {_draw(sketch, 3, 300, seed=seed).tobytes() for seed in seeds}
    fixed_by_design = not sketch.random or sketch.lambda_min(3, 300) == 0.0
    assert fixed_by_design or len(distinct) >= 9, f"only {len(distinct)} of 12 seeds gave a draw of their own"


def refuses_a_rank_above_the_width(sketch: Sketch) -> None:
    """Check that r = 0 and r > d raise an error of lopsided."""
    for r in (0, 9):
        try:
            _draw(sketch, r, 8)
        except LopsidedError:
            continue
        raise AssertionError(f"r={r} for d=8 was not refused")


def selects_distinct_columns(sketch: Sketch) -> None:
    """Check that a selector's rows are one-hot, distinct, and the same as its indices."""
    if isinstance(sketch, Selector):
        for link in range(6):
            indices = sketch.indices(3, 8, seed=5, link=link, inputs=_inputs(8))
            S = _draw(sketch, link=link)
            assert np.array_equal(S @ S.T, np.eye(3)), f"rows of link {link} are not one-hot and distinct"
            assert np.array_equal(S.argmax(1), indices), f"sample and indices disagree at link {link}"


SKETCH_CONTRACTS: tuple[Callable[[Sketch], None], ...] = (
    has_the_right_shape,
    is_a_pure_function,
    differs_as_it_says,
    refuses_a_rank_above_the_width,
    selects_distinct_columns,
)
