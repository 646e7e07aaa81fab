"""Factors of several models: what is compared with what, and what chance would give."""

import numpy as np
import pytest
import torch

from lopsided import LopsidedError
from lopsided.diagnose.sections.similarity import similarities
from tests.diagnose.cases import generator, orthonormal, tuned_model


def model(id: str, **factors):
    """`B_name` and `A_name` become a module's factors; A is given by its transpose."""
    by_letter = {letter: {k[2:]: X for k, X in factors.items() if k[0] == letter} for letter in "AB"}
    by_letter["A"] = {module: X.T for module, X in by_letter["A"].items()}
    return tuned_model(factors=by_letter, id=id)


def test_one_space_in_other_coordinates_is_the_same_and_a_disjoint_one_is_not():
    Q = orthonormal(20, 8, 0)
    turn = torch.randn(4, 4, generator=generator(1)).double()
    found = similarities([model("a", B_x=Q[:, :4], A_x=Q[:, :4]), model("b", B_x=3 * Q[:, :4] @ turn, A_x=Q[:, 4:])])
    for mine, other in ("ab", "ba"):
        assert found[mine]["B"][other] == pytest.approx(1.0)
        assert found[mine]["A"][other] == pytest.approx(0.0, abs=1e-12)
    assert found["a"]["chance"] == {"B": 4 / 20, "A": 4 / 20}


def test_random_factors_are_as_similar_as_chance():
    d_out, d_in, r, modules = 64, 48, 4, 60
    draws = [generator(seed) for seed in range(2)]
    models = [
        model(
            name,
            **{f"B_{i}": torch.randn(d_out, r, generator=draw) for i in range(modules)},
            **{f"A_{i}": torch.randn(d_in, r, generator=draw) for i in range(modules)},
        )
        for name, draw in zip("ab", draws)
    ]
    found = similarities(models)
    assert found["a"]["chance"] == {"B": pytest.approx(r / d_out), "A": pytest.approx(r / d_in)}
    # One pair's deviation is about √2/d; the mean of sixty is measured to 3 % of chance.
    for letter in "BA":
        assert found["a"][letter]["b"] == pytest.approx(found["a"]["chance"][letter], rel=0.12)


def test_only_layers_that_both_have_and_that_fit_count():
    Q = orthonormal(12, 6, 0)
    first = model("a", B_x=Q[:, :2], B_y=Q[:, :2], B_z=Q[:, :2], B_w=Q[:, :2])
    second = model("b", B_x=Q[:, :2], B_y=Q[:, 2:4], B_z=orthonormal(9, 2, 1), B_v=Q[:, :2])
    assert similarities([first, second])["a"]["B"]["b"] == pytest.approx((1 + 0) / 2)


def test_factors_of_zero_and_missing_ones_are_left_out():
    Q = orthonormal(12, 2, 0)
    full, zero = model("full"), model("zero", B_x=torch.zeros(12, 2), A_x=Q)
    found = similarities([model("a", B_x=Q, A_x=Q), zero, full])
    assert found["a"]["B"] == {"zero": None, "full": None}
    assert found["a"]["A"] == {"zero": pytest.approx(1.0), "full": None}
    assert found["full"]["chance"] == {"B": None, "A": None}
    assert found["zero"]["chance"] == {"B": None, "A": pytest.approx(2 / 12)}


def test_ranks_may_differ():
    """A line in a plane: all of the smaller space is in the larger one."""
    Q = orthonormal(12, 2, 0)
    assert similarities([model("a", B_x=Q), model("b", B_x=Q[:, :1])])["a"]["B"]["b"] == pytest.approx(1.0)
    assert np.isclose(similarities([model("a", B_x=Q), model("b", B_x=Q[:, :1])])["b"]["chance"]["B"], 1 / 12)


def test_two_different_models_are_asked_for():
    with pytest.raises(LopsidedError, match="at least two"):
        similarities([model("a")])
    with pytest.raises(LopsidedError, match="named twice"):
        similarities([model("a"), model("b"), model("a")])
