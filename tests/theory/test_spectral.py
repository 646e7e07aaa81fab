"""Theorem 1's corrections against the sum over subsets, and norms against a decomposition."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import lopsided
from lopsided import LopsidedError
from lopsided.theory import LayerNorms, model_norms, spectral_corrections, spectral_norm
from lopsided.tuner import layers_of
from tests.tiny import ADAPTERS, bert, train_a_little

NUMBERS = st.floats(0.0, 3.0)
LAYERS = st.lists(
    st.builds(
        lambda w, d, s, z: LayerNorms(base=w, update=d, lipschitz=s, offset=z), NUMBERS, NUMBERS, NUMBERS, NUMBERS
    ),
    min_size=1,
    max_size=6,
)


def subsets(layers: list[LayerNorms], start: int, kept: str) -> float:
    """Σ over the choices of W0 or ΔW in each layer from `start` on, but for the one that is all `kept`."""
    total = 0.0
    for choice in itertools.product(("base", "update"), repeat=len(layers) - start):
        if any(which != kept for which in choice):
            total += math.prod(getattr(layer, which) for layer, which in zip(layers[start:], choice))
    return total


def oracle(layers: list[LayerNorms], kept: str, C: float, loss: float) -> float:
    """The theorem with its 2^L terms written out."""
    total = C * math.prod(layer.lipschitz for layer in layers) * subsets(layers, 0, kept)
    for k in range(len(layers) - 1):
        after = math.prod(layer.lipschitz for layer in layers[k + 1 :])
        total += layers[k].offset * after * subsets(layers, k + 1, kept)
    return 2 * loss * total


@given(LAYERS)
@settings(max_examples=200, deadline=None)
def test_the_short_form_is_the_sum_over_subsets(layers):
    found = spectral_corrections(layers, input_bound=1.5, loss_lipschitz=0.7)
    assert found.update == pytest.approx(oracle(layers, "base", 1.5, 0.7), rel=1e-12, abs=1e-300)
    assert found.base == pytest.approx(oracle(layers, "update", 1.5, 0.7), rel=1e-12, abs=1e-300)


def test_it_vanishes_with_the_update_without_losing_digits():
    layers = [LayerNorms(base=3.0, update=1e-20, offset=1.0) for _ in range(12)]
    found = spectral_corrections(layers, input_bound=1.0, loss_lipschitz=1.0).update
    first_order = 2 * (12 * 3.0**11 + sum(k * 3.0 ** (k - 1) for k in range(1, 12))) * 1e-20
    assert found == pytest.approx(first_order, rel=1e-12)
    none = [LayerNorms(base=3.0, update=0.0) for _ in range(12)]
    assert spectral_corrections(none, input_bound=1.0, loss_lipschitz=1.0).update == 0.0


def test_one_layer_is_the_closed_form():
    found = spectral_corrections([LayerNorms(base=2.0, update=0.5)], input_bound=3.0, loss_lipschitz=4.0)
    assert (found.update, found.base) == (2 * 4 * 3 * 0.5, 2 * 4 * 3 * 2.0)


def test_a_thousand_layers_take_no_time_and_overflow_to_infinity():
    layers = [LayerNorms(base=2.0, update=1.0)] * 1000
    assert spectral_corrections(layers, input_bound=1.0, loss_lipschitz=1.0).update == math.inf


@pytest.mark.parametrize(
    "call",
    [
        lambda: spectral_corrections([], input_bound=1, loss_lipschitz=1),
        lambda: spectral_corrections([LayerNorms(base=1, update=1)], input_bound=0, loss_lipschitz=1),
        lambda: LayerNorms(base=-1, update=1),
        lambda: model_norms(torch.nn.Linear(2, 2)),
    ],
)
def test_bad_input_is_one_line(call):
    with pytest.raises(LopsidedError) as caught:
        call()
    assert "\n" not in str(caught.value)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 999))
@example(18, 5, 265)
@settings(max_examples=40, deadline=None)
def test_power_iteration_finds_the_norm_from_below(d_out, d_in, seed):
    M = torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(seed))
    norm = float(torch.linalg.matrix_norm(M, 2))
    found = spectral_norm(lambda x: x @ M.T, lambda y: y @ M, d_in)
    assert norm * 0.98 <= found <= norm * (1 + 1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_trained_models_norms_are_those_of_its_matrices(name):
    model = lopsided.adapt(bert(), name, r=2, target_modules="all-linear")
    train_a_little(model)
    norms = model_norms(model)
    for module, found in zip(norms.modules, norms.layers):
        layer = layers_of(model.get_base_model())[module]
        W0, delta = layer.base_weight.original(), layer.get_delta_weight("default")
        assert found.base == pytest.approx(float(torch.linalg.matrix_norm(W0, 2)), rel=0.02)
        assert found.update == pytest.approx(float(torch.linalg.matrix_norm(delta, 2)), rel=0.02)
    assert len(norms.modules) == len(layers_of(model))
    assert "gelu" in norms.assumed[0]


def test_an_unknown_activation_is_one_line():
    model = bert()
    model.config.hidden_act = "mish"
    model = lopsided.adapt(model, "cla", r=2, target_modules="all-linear")
    with pytest.raises(LopsidedError, match="mish"):
        model_norms(model)
