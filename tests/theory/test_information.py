"""The information bound, over all methods and against counting by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import lopsided
from lopsided import METHODS, LopsidedError, Method
from lopsided.theory import all_bounds, generalization_bound, layer_dims, sigma_estimated, sigma_of_range
from lopsided.theory.dims import LayerDims
from tests.tiny import bert, llama

DIMS = [(10, 20), (30, 10)]


def test_the_formula_by_hand():
    found = generalization_bound(DIMS, "lora", r=2, n=500, sigma=0.5, bits=16)
    trained = 2 * (10 + 20 + 30 + 10)
    assert found.trained == trained
    assert found.value == pytest.approx(math.sqrt(2 * trained * 16 * math.log(2) * 0.25 / 500))


@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if m.is_adapter])
def test_every_method_counts_what_its_model_trains(name):
    """The bound's count is the number of trained adapter entries of a real model, times the links."""
    model = bert()
    listed = layer_dims(model)
    model = lopsided.adapt(model, name, r=2, target_modules="all-linear")
    adapters = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and ".lopsided_" in n)
    chain = METHODS[name].chain
    links = 1 if chain is None else chain.links
    assert generalization_bound(listed, name, r=2, n=10, sigma=1.0).trained == adapters * links
    assert layer_dims(model) == [dataclasses.replace(dims, module=f"base_model.model.{dims.module}") for dims in listed]


@pytest.mark.parametrize(
    ("name", "numbers"), [("ipa_b", 3 * (20 + 10)), ("act_cla", 3 * 2), ("asym_b", 0), ("rcla", 0)]
)
def test_a_sketch_that_the_samples_decide_counts_as_well(name, numbers):
    found, other = (generalization_bound(DIMS, method, r=3, n=9, sigma=1.0) for method in (name, "asym_b"))
    assert (found.trained, found.sketched) == (other.trained, numbers)
    assert found.value == pytest.approx(other.value * math.sqrt((other.trained + numbers) / other.trained))


def test_a_users_own_method_has_a_bound_without_being_registered():
    mine = Method(name="mine", train="B", sketch=lopsided.Columns(), chain=lopsided.Chain(links=3), source="here")
    assert generalization_bound(DIMS, mine, r=4, n=9, sigma=1.0).trained == 3 * 4 * 40


def test_more_links_widen_it_by_their_root():
    one, nine = (generalization_bound(DIMS, "c3la", r=1, n=9, sigma=1.0, links=k).value for k in (1, 9))
    assert nine == pytest.approx(3 * one)


def test_the_table_is_sorted_and_leaves_out_what_trains_nothing():
    found = all_bounds(DIMS, r=4, n=100, sigma=0.5)
    values = [bound.value for bound in found]
    assert values == sorted(values)
    assert {bound.method for bound in found} == set(METHODS) - {"head"}


def test_sigma_of_a_bounded_loss_covers_its_estimate():
    losses = np.random.RandomState(0).randint(0, 2, 400)
    estimate = sigma_estimated(losses)
    assert estimate.how == "estimate"
    assert losses.std() <= estimate.value + 1e-12
    assert estimate.value <= sigma_of_range(0, 1).value + 1e-6


def test_sigma_of_normal_losses_is_their_deviation():
    losses = np.random.RandomState(1).standard_normal(20000) * 3 + 7
    assert sigma_estimated(losses).value == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"r": -1}, {"bits": 0}, {"sigma": 0.0}, {"sigma": float("nan")}, {"links": 0}]
)
def test_numbers_out_of_range_are_one_line(wrong):
    asked = {"r": 2, "n": 10, "sigma": 1.0, "bits": 32, "links": 2} | wrong
    with pytest.raises(LopsidedError, match=f"^{next(iter(wrong))} must be a positive") as caught:
        generalization_bound(DIMS, "c3la", **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generalization_bound(DIMS, "cla", 2, 10, 1.0, links=2), "has no chain"),
        (lambda: generalization_bound(DIMS, "cal", 2, 10, 1.0), "unknown method"),
        (lambda: generalization_bound(torch.nn.Conv2d(1, 1, 1), "cla", 2, 10, 1.0), "expected linear layers"),
        (lambda: generalization_bound([], "cla", 2, 10, 1.0), "at least one layer"),
        (lambda: generalization_bound([(0, 3)], "cla", 2, 10, 1.0), "widths of at least 1"),
        (lambda: sigma_of_range(1, 1), "low < high"),
        (lambda: sigma_estimated([1.0]), "at least two"),
        (lambda: sigma_estimated([1.0, 1.0]), "losses that differ"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_causal_models_head_is_no_layer_of_it():
    modules = [dims.module for dims in layer_dims(llama())]
    assert modules
    assert not any("lm_head" in module for module in modules)


def test_dims_are_passed_through():
    assert layer_dims([LayerDims(module="a", d_out=2, d_in=3), (4, 5)])[1].d_in == 5
