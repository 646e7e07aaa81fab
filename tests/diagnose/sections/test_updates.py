"""Ranks, angles and shares that follow from how an update was built."""

import math

import numpy as np
import pytest
import torch

from lopsided import LopsidedError
from lopsided.diagnose.base_svd import decompose
from lopsided.diagnose.sections.updates import angles, energy_by_link, layer_record, spectra, update_svd
from tests.diagnose.cases import dense_layer, layer_of, orthonormal, random_layer, tuned_model

D_OUT, D_IN = 30, 24
U, V = orthonormal(D_OUT, D_IN, 1), orthonormal(D_IN, D_IN, 2)
W0 = U * torch.linspace(5, 1, D_IN, dtype=torch.float64) @ V.T


def test_ranks_in_closed_form():
    """σ = 4, 2, 1: the stable rank is 21/16, the effective rank that of p = 4/7, 2/7, 1/7."""
    layer = layer_of(W0, (orthonormal(D_OUT, 3, 3) * torch.tensor([4.0, 2.0, 1.0]), orthonormal(D_IN, 3, 4).T))
    record = layer_record(layer, decompose(layer.weight))
    delta = record["delta"]
    assert delta["singular_values"] == pytest.approx([4, 2, 1], rel=1e-6)
    assert delta["spectral"] == pytest.approx(4)
    assert delta["frobenius"] == pytest.approx(math.sqrt(21))
    assert delta["stable_rank"] == pytest.approx(21 / 16)
    p = np.array([4, 2, 1]) / 7
    assert delta["effective_rank"] == pytest.approx(np.prod(p**-p))
    assert delta["rank"] == 3
    values = np.linspace(5, 1, D_IN)
    assert record["weight"] == pytest.approx(
        {"spectral": 5, "frobenius": np.linalg.norm(values), "stable_rank": np.sum((values / 5) ** 2)}
    )
    assert {key: record[key] for key in ("module", "kind", "d_out", "d_in")} == {
        "module": "encoder.0.query",
        "kind": "query",
        "d_out": D_OUT,
        "d_in": D_IN,
    }


def test_equal_singular_values_have_their_number_as_rank():
    layer = layer_of(W0, (orthonormal(D_OUT, 6, 3), orthonormal(D_IN, 6, 4).T))
    delta = layer_record(layer, decompose(layer.weight))["delta"]
    assert delta["stable_rank"] == pytest.approx(6)
    assert delta["effective_rank"] == pytest.approx(6)


def test_angles_of_an_update_in_the_top_spaces_and_beside_them():
    """Left: two of the top three vectors, and one at 30 degrees to the third; right: none of the top ones."""
    tilted = math.cos(math.pi / 6) * U[:, 2:3] + math.sin(math.pi / 6) * U[:, 9:10]
    left = torch.cat([U[:, :2], tilted], dim=1)
    layer = layer_of(W0, (left * torch.tensor([3.0, 2.0, 1.0]), V[:, 10:13].T))
    found = layer_record(layer, decompose(layer.weight), top=3)["angles"]
    assert found["top"] == 3
    assert found["left_degrees"] == pytest.approx([0, 0, 30], abs=1e-3)
    assert found["right_degrees"] == pytest.approx([90, 90, 90], abs=1e-3)


def test_angles_are_those_of_as_many_vectors_as_the_update_has():
    layer = layer_of(W0, (U[:, 4:5], V[:, :1].T))
    found = layer_record(layer, decompose(layer.weight), top=3)["angles"]
    assert (found["top"], len(found["left_degrees"])) == (1, 1)
    assert found["left_degrees"] == pytest.approx([90], abs=1e-3)
    assert found["right_degrees"] == pytest.approx([0], abs=1e-3)
    assert angles(np.zeros((5, 0)), np.eye(5)) == []


@pytest.mark.parametrize("ranks", [(3,), (2, 4, 1), (20, 20)])
def test_factors_give_what_the_whole_matrix_gives(ranks):
    layer = random_layer(D_OUT, D_IN, *ranks, share=0.5)
    whole = np.linalg.svd(layer.delta().numpy())[1]
    rank = min(sum(ranks), D_IN)
    np.testing.assert_allclose(update_svd(layer)[1], whole[:rank], rtol=1e-6)
    left, values, right = update_svd(layer)
    np.testing.assert_allclose(left * values @ right.T, layer.delta().numpy(), atol=1e-9 * whole[0])
    dense = dense_layer(layer.weight, layer.delta())
    np.testing.assert_allclose(update_svd(dense)[1], whole[:rank], rtol=1e-5)
    assert [link.energy() for link in dense.links] == pytest.approx([layer.delta().square().sum().item()], rel=1e-5)


def test_low_rank_updates_are_not_written_out(monkeypatch):
    layer = random_layer(D_OUT, D_IN, 3, share=0.5)
    monkeypatch.setattr(type(layer), "delta", lambda self: pytest.fail("ΔW was formed"))
    assert layer_record(layer, decompose(layer.weight))["delta"]["rank"] == 3


def test_two_links_in_one_direction_have_rank_one():
    a, b = torch.randn(D_OUT, 1), torch.randn(1, D_IN)
    assert layer_record(layer_of(W0, (a, b), (2 * a, b)), decompose(W0.float()))["delta"]["rank"] == 1


def test_shares_of_the_links():
    """‖Δ_t‖_F of 1, 2 and 4: shares of 1/21, 4/21 and 16/21."""
    links = [(size * orthonormal(D_OUT, 1, seed), orthonormal(D_IN, 1, seed).T) for seed, size in enumerate((1, 2, 4))]
    assert energy_by_link(layer_of(W0, *links)) == pytest.approx([1 / 21, 4 / 21, 16 / 21])
    assert energy_by_link(layer_of(W0, links[0])) == [1.0]


def test_an_update_of_zero_has_no_direction():
    record = layer_record(layer_of(W0, (torch.zeros(D_OUT, 2), torch.ones(2, D_IN))), decompose(W0.float()))
    zeros = {"spectral": 0.0, "frobenius": 0.0, "stable_rank": None, "effective_rank": None, "rank": 0}
    assert record["delta"] == {**zeros, "singular_values": []}
    assert record["angles"] == {"top": 0, "left_degrees": [], "right_degrees": []}
    assert record["energy_by_link"] == [None]


def test_at_most_64_singular_values_are_listed():
    layer = random_layer(90, 80, 70, share=0.5)
    delta = layer_record(layer, decompose(layer.weight))["delta"]
    assert (delta["rank"], len(delta["singular_values"])) == (70, 64)


def test_every_layer_has_a_record_and_wrong_input_an_error(tmp_path):
    layers = [random_layer(10, 8, 2, share=0.5), random_layer(8, 10, 2, share=0.5)]
    said = []
    assert [
        record["d_in"] for record in spectra(tuned_model(*layers), cache=tmp_path, done=lambda *step: said.append(step))
    ] == [8, 10]
    assert said == [(0, 2), (1, 2), (2, 2)]
    with pytest.raises(LopsidedError, match="top must be at least 1"):
        spectra(tuned_model(*layers), top=0)
    broken = layer_of(W0, (torch.full((D_OUT, 1), torch.nan), torch.ones(1, D_IN)))
    with pytest.raises(LopsidedError, match="NaN or Inf"):
        spectra(tuned_model(broken), cache=tmp_path)
