"""Merging into the base weights and taking it out again, and taking the adapters off a model."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from lopsided.tuner import layers_of
from tests import tiny
from tests.behave.cases import (
    adapted,
    another,
    assert_base_is,
    assert_base_is_original,
    assert_near,
    base,
    config,
    everywhere,
    fill,
    logits,
    oracle,
    original,
    pair,
    plain_logits,
    trained,
)


@everywhere(6)
def test_merging_keeps_the_function_and_unmerging_is_exact(arch, method):
    model = trained(arch, method)
    for safe in (False, True):
        before, expected = logits(model), oracle(arch, model, ["default"])
        model.merge_adapter(safe_merge=safe)
        assert all(layer.merged for layer in layers_of(model).values())
        merged = logits(model)
        assert_near(merged, expected)
        model.unmerge_adapter()
        assert torch.equal(logits(model), before)
        # The factor is written to while it is merged: the weight is W0 again all the same, and the factor is new.
        model.merge_adapter()
        for layer in layers_of(model).values():
            for factor in layer.trained("default").values():
                factor.data.mul_(1.5)
        assert torch.equal(logits(model), merged)
        model.unmerge_adapter()
        assert_near(logits(model), oracle(arch, model, ["default"]))
    assert_base_is_original(model, arch)


@everywhere(6)
def test_several_adapters_merge_into_one_weight(arch, method):
    model = pair(arch, method, heads=False)
    before = logits(model)
    both, other = oracle(arch, model, ["default", "other"]), oracle(arch, model, ["other"])
    model.merge_adapter(["default", "other"])
    assert_near(logits(model), both)
    model.unmerge_adapter()
    assert torch.equal(logits(model), before)
    # One after the other, and the one that is not active.
    model.merge_adapter(["other"])
    assert_near(logits(model), other)
    with pytest.warns(UserWarning, match="additionally merging default"):
        model.merge_adapter(["default"])
    assert_near(logits(model), both)
    with pytest.warns(UserWarning, match="already merged, nothing to do"):
        model.merge_adapter(["other"])
    assert_near(logits(model), both)
    model.unmerge_adapter()
    assert torch.equal(logits(model), before)
    assert_base_is_original(model, arch)
    with pytest.raises(TypeError, match="should be a list of strings"):
        model.merge_adapter("default")


@everywhere(6)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_safe_merge_refuses_what_is_not_finite(arch, method, value):
    model = trained(arch, method)
    layers = layers_of(model)
    damaged = list(layers.values())[-1]
    factor = next(iter(damaged.trained("default").values()))
    with torch.no_grad():
        factor.view(-1)[0] = value
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match=r"NaNs detected.*default seems to be broken"):
            merge(safe_merge=True)
        # It is the last layer that is damaged: those before it must not be left merged, or taken off the model.
        assert layers_of(model).keys() == layers.keys()
        assert not any(layer.merged for layer in layers.values())
        assert_base_is_original(model, arch)


@everywhere(6)
def test_unload_gives_the_original_model_back(arch, method):
    for merged in (False, True):
        model, plain = trained(arch, method, heads=False), original(arch)
        if merged:
            model.merge_adapter()
        bare = model.unload()
        assert type(bare) is type(plain)
        assert [n for n, _ in bare.named_modules()] == [n for n, _ in plain.named_modules()]
        assert_base_is_original(bare, arch)
        assert torch.equal(logits(bare), plain_logits(arch))


@everywhere()
def test_unload_while_disabled_and_of_two_adapters(arch, method):
    model = pair(arch, method, heads=False)
    model.base_model.disable_adapter_layers()
    assert_base_is_original(model.unload(), arch)
    model = pair(arch, method, heads=False)
    model.set_adapter("other")
    assert_base_is_original(model.unload(), arch)


@everywhere()
def test_merge_and_unload_leaves_a_plain_model(arch, method, capsys):
    model = trained(arch, method)
    expected = oracle(arch, model, ["default"])
    bare = model.merge_and_unload(progressbar=True, safe_merge=True)
    assert "Unloading and merging model" in capsys.readouterr().err
    assert not layers_of(bare)
    assert [n for n, _ in bare.named_modules()] == [n for n, _ in original(arch).named_modules()]
    assert_near(logits(bare), expected)


@everywhere(6)
@pytest.mark.parametrize("names", [["other"], ["default", "other"]], ids=",".join)
def test_merge_and_unload_of_chosen_adapters(arch, method, names):
    model = pair(arch, method, heads=False)
    expected = oracle(arch, model, names)
    # Disabled first: what is asked for by name is merged all the same.
    model.base_model.disable_adapter_layers()
    assert_near(logits(model.merge_and_unload(adapter_names=names)), expected)


@everywhere()
def test_merged_models_can_be_trained_on_and_adapted_again(arch, method):
    model = trained(arch, method, heads=False)
    expected = oracle(arch, model, ["default"])
    bare = model.merge_and_unload()
    assert not any(p.requires_grad for p in bare.parameters())
    again = get_peft_model(bare, config(arch, another(method), heads=False)).eval()
    assert_near(logits(again), expected)
    fill(again)
    assert (logits(again) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_a_16_bit_base_is_merged_within_its_rounding_and_unmerged_exactly(method, dtype):
    plain = base("llama").to(dtype)
    model = get_peft_model(base("llama").to(dtype), config("llama", method)).eval()
    fill(model)
    before = logits(model)
    for _ in range(3):
        model.merge_adapter(safe_merge=True)
        for name, layer in layers_of(model).items():
            weight = plain.get_submodule(name.removeprefix("base_model.model.")).weight
            delta = layer.get_delta_weight("default")
            assert delta.dtype == torch.float32
            assert torch.equal(layer.base_layer.weight, (weight.float() + delta).to(dtype))
        torch.testing.assert_close(logits(model), before, atol=0.1, rtol=0.1)
        model.unmerge_adapter()
        assert torch.equal(logits(model), before)
    assert_base_is(model, plain)


def test_unmerging_what_is_not_merged_says_so():
    with pytest.warns(UserWarning, match="Already unmerged"):
        adapted("mlp", "cla").unmerge_adapter()
