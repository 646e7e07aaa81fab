"""Switching adapters off, among each other, and deleting them."""

from __future__ import annotations

import warnings

import pytest
import torch

import lopsided
from lopsided import METHODS
from lopsided.tuner import layers_of
from tests.behave.cases import (
    assert_base_is_original,
    assert_near,
    config,
    everywhere,
    fill,
    logits,
    oracle,
    pair,
    plain_logits,
    trained,
)


@everywhere()
def test_disabled_adapters_leave_the_base_model(arch, method):
    model = trained(arch, method)
    with_adapter, without = logits(model), plain_logits(arch)
    with model.disable_adapter():
        assert torch.equal(logits(model), without)
        with model.disable_adapter():
            assert torch.equal(logits(model), without)
        assert torch.equal(logits(model), without), "leaving the inner context must not switch back on"
    assert torch.equal(logits(model), with_adapter)
    model.base_model.disable_adapter_layers()
    model.base_model.disable_adapter_layers()
    assert torch.equal(logits(model), without)
    with model.disable_adapter():
        assert torch.equal(logits(model), without)
    assert torch.equal(logits(model), without), "the context must leave the model as it found it"
    model.base_model.enable_adapter_layers()
    assert torch.equal(logits(model), with_adapter)
    with pytest.raises(ZeroDivisionError), model.disable_adapter():
        _ = 1 / 0
    assert torch.equal(logits(model), with_adapter)
    assert_base_is_original(model, arch)


@everywhere()
def test_a_merged_model_can_be_disabled_and_enabled(arch, method):
    model = trained(arch, method)
    before = logits(model)
    model.merge_adapter()
    merged = logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain_logits(arch))
    # Stock LoRA layers unmerge for good when they are disabled; ours come back merged, as they were.
    assert all(layer.merged for layer in layers_of(model).values())
    assert torch.equal(logits(model), merged)
    model.unmerge_adapter()
    assert torch.equal(logits(model), before)
    assert_base_is_original(model, arch)


@everywhere()
def test_training_goes_on_after_the_adapter_was_disabled(arch, method):
    model = trained(arch, method)
    twin = trained(arch, method)
    for peft_model, pause in ((model, True), (twin, False)):
        for seed in range(2):
            fill(peft_model, seed=seed + 20)
            if pause:
                with peft_model.disable_adapter():
                    logits(peft_model)
        if METHODS[method].chain:
            assert lopsided.advance_chain(peft_model) == 3
    assert torch.equal(logits(model), logits(twin))


@everywhere(6)
def test_switching_gives_each_adapters_own_function(arch, method):
    model = pair(arch, method)
    outputs = {"default": logits(model)}
    model.set_adapter("other")
    outputs["other"] = logits(model)
    for name in ("default", "other", "other", "default"):
        model.set_adapter(name)
        assert model.active_adapters == [name]
        assert torch.equal(logits(model), outputs[name])
        assert_near(outputs[name], oracle(arch, model, [name]))
    with model.disable_adapter():
        model.set_adapter("other")
        assert torch.equal(logits(model), plain_logits(arch)), "choosing an adapter must not switch it on"
    assert torch.equal(logits(model), outputs["other"])
    with pytest.raises(ValueError, match="nobody"):
        model.set_adapter("nobody")
    assert torch.equal(logits(model), outputs["other"])
    assert_base_is_original(model, arch)


@everywhere()
def test_switching_a_merged_model_unmerges_it_first(arch, method):
    model = pair(arch, method)
    outputs = {"default": logits(model)}
    model.set_adapter("other")
    outputs["other"] = logits(model)
    model.merge_adapter()
    with pytest.warns(UserWarning, match="Unmerging the model first"):
        model.set_adapter("default")
    assert torch.equal(logits(model), outputs["default"])
    model.set_adapter("other")
    assert torch.equal(logits(model), outputs["other"])


@everywhere(6)
def test_active_adapters_add_up(arch, method):
    model = pair(arch, method, heads=False)
    alone, both = logits(model), oracle(arch, model, ["default", "other"])
    model.base_model.set_adapter(["default", "other"])
    assert model.active_adapters == ["default", "other"]
    assert_near(logits(model), both)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain_logits(arch))
    model.merge_adapter()
    assert_near(logits(model), both)
    model.unmerge_adapter()
    assert_near(logits(model), both)
    model.set_adapter("default")
    assert torch.equal(logits(model), alone)


@everywhere()
def test_deleting_an_inactive_adapter(arch, method):
    model = pair(arch, method)
    expected = logits(model)
    model.delete_adapter("other")
    assert list(model.peft_config) == model.active_adapters == ["default"]
    assert not any(name.endswith(".other") or ".other." in name for name in model.state_dict())
    assert torch.equal(logits(model), expected)
    for call in (model.delete_adapter, model.set_adapter):
        with pytest.raises(ValueError, match="other"):
            call("other")


@everywhere()
def test_deleting_the_active_adapter_turns_to_the_next(arch, method):
    model = pair(arch, method)
    model.set_adapter("other")
    expected = logits(model)
    model.set_adapter("default")
    with pytest.warns(UserWarning, match="Setting active adapter to other"):
        model.delete_adapter("default")
    assert model.active_adapters == ["other"]
    assert torch.equal(logits(model), expected)
    fill(model, "other")
    assert_near(logits(model), oracle(arch, model, ["other"]))


@everywhere()
def test_deleting_the_last_adapter_leaves_the_base_model(arch, method):
    model = trained(arch, method)
    model.delete_adapter("default")
    assert model.active_adapters == []
    # PEFT's wrapper itself asks for an active adapter's configuration; the model inside it goes on working.
    assert torch.equal(logits(model.base_model.model), plain_logits(arch))
    assert_base_is_original(model.base_model.model, arch)
    # PEFT's wrapper of a trained head can't be left without an adapter and then get one; the layers can.
    model = trained(arch, method, heads=False)
    model.delete_adapter("default")
    model.add_adapter("fresh", config(arch, method, heads=False))
    model.set_adapter("fresh")
    assert torch.equal(logits(model.eval()), plain_logits(arch))
    fill(model, "fresh")
    assert_near(logits(model), oracle(arch, model, ["fresh"]))


@everywhere()
def test_a_merged_adapter_is_not_deleted(arch, method):
    model = pair(arch, method)
    before = logits(model)
    model.merge_adapter()
    merged = logits(model)
    with pytest.raises(ValueError, match=r"Cannot delete adapter\(s\) \['default'\] while they are merged"):
        model.delete_adapter("default")
    assert torch.equal(logits(model), merged)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.delete_adapter("other")
    assert torch.equal(logits(model), merged)
    model.unmerge_adapter()
    assert torch.equal(logits(model), before)
