"""Intruder counts where they are known, and the search for the first vectors against the decomposition."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from lopsided import LopsidedError
from lopsided.diagnose import leading_vectors as leading_module
from lopsided.diagnose.base_svd import base_svd, decompose
from lopsided.diagnose.leading_vectors import leading
from lopsided.diagnose.sections.intruders import EPSILONS, closest, count, intruders
from tests.diagnose.cases import dense_layer, layer_of, orthonormal, random_layer, tuned_model

M = 64
VALUES = torch.linspace(4.0, 1.0, M, dtype=torch.float64)


def turned(turn: torch.Tensor, where: list[int], *, d_out: int = M, module: str = "a.query"):
    """W0 with some left singular vectors turned among themselves; ΔW has their number as its rank."""
    U, V = orthonormal(d_out, M, 1), orthonormal(M + 6, M, 2)
    change = U[:, where] @ (turn - torch.eye(len(where), dtype=torch.float64))
    return layer_of(U * VALUES @ V.T, (change * VALUES[where], V[:, where].T), module=module)


def expected(likeness: list[float]) -> list[int]:
    """Counts for vectors of a known likeness among others that stayed."""
    return [sum(x < epsilon for x in likeness) for epsilon in EPSILONS]


PLANTED = {
    # Two vectors turned by 40 degrees in their plane: each is nearest to itself, by cos 40°.
    "turned": (
        torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64),
        [2, 30],
        [math.cos(0.7)] * 2,
        [math.cos(0.7)],
    ),
    # Sixteen vectors, each of which becomes an equal mix of all: 1/4 of each.
    "mixed": (torch.from_numpy(hadamard(16) / 4.0).double(), list(range(4, 20)), [0.25] * 16, [0.25] * 6),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_intruders_are_counted_at_every_epsilon(name):
    turn, where, everywhere, first = PLANTED[name]
    # 0.25 is an ε itself: a likeness of exactly ε is none below it.
    everywhere, first = ([x + 1e-3 for x in likeness] for likeness in (everywhere, first))
    found = intruders(tuned_model(turned(turn, where)))
    assert found["epsilons"] == list(EPSILONS)
    assert len(EPSILONS) == 20
    assert found["all"]["by_layer"]["a.query"] == expected(everywhere)
    assert found["top_k"]["by_layer"]["a.query"] == expected(first)
    assert intruders(tuned_model(turned(turn, where)), all_vectors=False) == {**found, "all": None}


def test_a_vector_from_outside_the_pretrained_span_is_an_intruder_by_its_angle():
    """d_out > d_in: W0 has no left vectors for the rest of the space, which the first one is turned into."""
    U, V, c = orthonormal(90, M, 1), orthonormal(M, M, 2), 0.62
    outside = torch.randn(90, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    outside = torch.linalg.qr(outside - U @ (U.T @ outside))[0]
    change = (c - 1) * U[:, :1] + math.sqrt(1 - c**2) * outside
    layer = layer_of(U * VALUES @ V.T, (change * VALUES[0], V[:, :1].T))
    base = decompose(layer.weight)
    assert closest(layer, base, 4) == pytest.approx([c, 1, 1, 1], abs=1e-5)
    assert closest(layer, base) == pytest.approx([c, *[1] * (M - 1)], abs=1e-5)


def test_an_update_larger_than_the_weight_brings_an_intruder_first():
    """A spike that leans on all pretrained vectors alike: 1/√m of each."""
    U, V = orthonormal(M, M, 1), orthonormal(M, M, 2)
    spike = layer_of(U * VALUES @ V.T, (100 * U.sum(1, keepdim=True), V.sum(1, keepdim=True).T))
    base = decompose(spike.weight)
    assert leading(base, spike.weight, *spike.factors(), 5) is not None
    assert closest(spike, base, 5)[0] == pytest.approx(1 / math.sqrt(M), abs=1e-4)
    np.testing.assert_allclose(closest(spike, base, 5), closest(spike, base)[:5], atol=1e-5)


@pytest.mark.parametrize(("d_out", "d_in"), [(80, 80), (150, 72), (72, 150)])
@pytest.mark.parametrize("share", [1e-4, 1e-2, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("spread", [None, 1e-2, 1e-4])
def test_the_search_finds_what_the_decomposition_finds(d_out, d_in, share, spread):
    for seed, ranks in enumerate([(4,), (2, 3, 2)]):
        layer = random_layer(d_out, d_in, *ranks, share=share, seed=10 * seed, spread=spread)
        base = decompose(layer.weight)
        found = leading(base, layer.weight, *layer.factors(), 6)
        assert found is not None
        whole = closest(layer, base)[:6]
        # Two singular values 1e-4 apart turn by 1e-3 when the weight is rounded to float32.
        np.testing.assert_allclose(
            found[: min(d_out, d_in)].abs().amax(0), whole, atol=2e-3 if spread == 1e-4 else 1e-4
        )
        assert count(closest(layer, base, 6), EPSILONS) == count(whole, EPSILONS)


def test_the_search_does_without_a_decomposition(monkeypatch):
    layer = random_layer(200, 120, 4, share=0.1)
    base = decompose(layer.weight)
    whole = closest(layer, base)[:10]
    monkeypatch.setattr(type(layer), "delta", lambda self: pytest.fail("ΔW was formed"))
    np.testing.assert_allclose(closest(layer, base, 10), whole, atol=1e-4)


def test_tied_singular_values_are_left_to_the_decomposition():
    layer = random_layer(80, 80, 2, share=0.01, spread=0.0)
    base = decompose(layer.weight)
    assert leading(base, layer.weight, *layer.factors(), 6) is None
    np.testing.assert_allclose(closest(layer, base, 6), closest(layer, base)[:6], rtol=1e-12)


def test_vectors_that_do_not_fit_the_weight_are_not_believed():
    layer = random_layer(80, 80, 2, share=0.1)
    other = random_layer(80, 80, 2, share=0.1, seed=3)
    assert leading(decompose(other.weight), layer.weight, *layer.factors(), 6) is None


def test_a_search_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(leading_module, "ROUNDS", 1)
    layer = random_layer(150, 150, 4, share=0.1)
    base = decompose(layer.weight)
    assert leading(base, layer.weight, *layer.factors(), 6) is None
    np.testing.assert_allclose(closest(layer, base, 6), closest(layer, base)[:6], rtol=1e-12)


@pytest.mark.parametrize("W0", [torch.eye(40), torch.randn(40, 40, generator=torch.Generator().manual_seed(0))])
def test_no_update_no_intruders(W0):
    nothing = layer_of(W0, (torch.zeros(40, 2), torch.ones(2, 40)))
    found = intruders(tuned_model(nothing))
    assert found["all"]["mean"] == found["top_k"]["mean"] == [0.0] * 20


def test_a_dense_update_counts_as_its_factors_do():
    layer = random_layer(80, 60, 3, share=0.3)
    dense = dense_layer(layer.weight, layer.delta())
    assert intruders(tuned_model(layer)) == intruders(tuned_model(dense))


def test_means_go_over_layers_and_kinds():
    turn, where, _, _ = PLANTED["mixed"]
    quiet = layer_of(torch.diag(VALUES), (torch.zeros(M, 1), torch.zeros(1, M)), module="b.query")
    found = intruders(
        tuned_model(turned(turn, where), quiet, turned(turn, where, module="a.value")), epsilons=[0.2, 0.5]
    )
    assert found["all"]["by_layer"] == {"a.query": [0, 16], "b.query": [0, 0], "a.value": [0, 16]}
    assert found["all"]["by_kind"] == {"query": [0.0, 8.0], "value": [0.0, 16.0]}
    assert found["all"]["mean"] == pytest.approx([0, 32 / 3])
    assert found["top_k"]["by_kind"] == {"query": [0.0, 3.0], "value": [0.0, 6.0]}


def test_narrow_layers_have_all_their_vectors_counted(tmp_path):
    layer = random_layer(6, 30, 2, share=1.0)
    found = intruders(tuned_model(layer), top=10)
    assert found["top_k"] == found["all"]
    assert closest(layer, base_svd(layer.weight, tmp_path), 10).shape == (6,)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"epsilons": []}, "epsilon"), ({"epsilons": [0.5, 1.5]}, "epsilon"), ({"top": 0}, "top must be at least 1")],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(LopsidedError, match=said):
        intruders(tuned_model(random_layer(8, 8, 1, share=1.0)), **options)
    with pytest.raises(LopsidedError, match="no tuned linear layer"):
        intruders(tuned_model())
