"""Sequences of public calls that a user may make, each against the plain sum of what should be active."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForMultipleChoice

import lopsided
from lopsided import METHODS, Chain, Columns, LopsidedConfig, LopsidedError, Method, Selector, Singular, Sketch
from lopsided.method import A, B
from lopsided.method.sketch import layer_seed
from lopsided.testing import Net, adapted, network, optimizer_of, take_steps
from lopsided.tuner import layers_of
from tests import tiny

TARGETS = {"r": 2, "target_modules": ["first", "second"]}


def two_adapters():
    """A network whose active adapter has two past links, beside a second one with none."""
    base, x = network()
    model = adapted(METHODS["c3la"], base)
    optimizer = optimizer_of(model)
    for _ in range(2):
        take_steps(model, optimizer, x, 2)
        lopsided.advance_chain(model, optimizer)
    take_steps(model, optimizer, x, 2)
    model.add_adapter("b", LopsidedConfig(method="cla", seed=3, **TARGETS))
    for layer in layers_of(model).values():
        with torch.no_grad():
            layer.lopsided_B["b"].weight.normal_()
    return model, x


def first(model):
    return next(iter(layers_of(model).values()))


def test_merging_one_adapter_leaves_the_others_links_out():
    model, _ = two_adapters()
    layer, plain = first(model), network()[0].first.weight
    model.merge_adapter(["b"])
    torch.testing.assert_close(layer.base_layer.weight, plain + layer.get_delta_weight("b"), atol=1e-6, rtol=0)
    model.unmerge_adapter()
    delta = layer.get_delta_weight("b")
    merged = model.merge_and_unload(adapter_names=["b"])
    torch.testing.assert_close(merged.first.weight, plain + delta, atol=1e-6, rtol=0)


def test_merging_while_disabled_still_merges():
    model, _ = two_adapters()
    expected = network()[0].first.weight + first(model).get_delta_weight("default")
    model.base_model.disable_adapter_layers()
    torch.testing.assert_close(model.merge_and_unload().first.weight, expected, atol=1e-6, rtol=0)


def test_loading_into_a_merged_layer_is_refused(tmp_path):
    model, _ = two_adapters()
    model.save_pretrained(tmp_path)
    model.merge_adapter()
    with pytest.raises(LopsidedError, match="are merged"):
        model.load_adapter(str(tmp_path), "default")


@pytest.mark.parametrize("name", ["c3la", "rac_a", "cola", "bernoulli"])
def test_a_whole_models_state_dict_carries_its_links(name):
    base, x = network()
    model = adapted(METHODS[name], base)
    optimizer = optimizer_of(model)
    early = copy.deepcopy(model.state_dict())
    early_output = model(x)
    for _ in range(2):
        take_steps(model, optimizer, x, 2)
        lopsided.advance_chain(model, optimizer)
    take_steps(model, optimizer, x, 2)
    expected = model(x)
    twin = adapted(METHODS[name], network()[0])
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(twin(x), expected, atol=1e-6, rtol=0)
    with twin.disable_adapter():
        assert torch.equal(first(twin).base_layer.weight, network()[0].first.weight)
    # And back again, over a live chain.
    model.load_state_dict(early)
    torch.testing.assert_close(model(x), early_output, atol=1e-6, rtol=0)


def test_a_refused_adapter_leaves_the_model_as_it_was():
    base, x = network()
    expected = base(x)
    with pytest.raises(LopsidedError, match="r=10, d_in=9 in second"):
        lopsided.adapt(base, "lora", r=3, target_modules=["first", "second"], rank_pattern={"second": 10})
    assert isinstance(base.first, nn.Linear)
    assert torch.equal(base(x), expected)
    model = lopsided.adapt(base, "cla", **TARGETS)
    assert all("lopsided_B" in name for name, p in model.named_parameters() if p.requires_grad)


def test_merging_links_into_a_shared_weight_is_refused():
    with pytest.raises(LopsidedError, match="shares its weight"):
        lopsided.adapt(tiny.gpt2(), "c3la", r=2, target_modules=["lm_head"], merge_links=True)


def test_several_active_adapters_are_refused_where_one_is_meant(tmp_path):
    model, _ = two_adapters()
    model.base_model.set_adapter(["default", "b"])
    for call in (lambda: lopsided.to_lora(model, tmp_path), lambda: lopsided.advance_chain(model)):
        with pytest.raises(LopsidedError, match="several adapters are active"):
            call()
    with pytest.raises(LopsidedError, match="Net holds no low-rank terms"):
        lopsided.advance_chain(Net())


@pytest.mark.parametrize("drop", ["lopsided_B.weight", "lopsided_state.past_B"])
def test_a_file_without_a_factor_is_refused(drop, tmp_path):
    model, _ = two_adapters()
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors.pop(f"base_model.model.second.{drop}")
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LopsidedError, match=f"lacks {drop} of 1 of 2"):
        PeftModel.from_pretrained(network()[0], str(tmp_path))


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.block = nn.Linear(4, 4), nn.ModuleDict({"fc": nn.Linear(4, 4)})

    def forward(self, x):
        return self.block["fc"](torch.tanh(self.fc(x)))


def test_an_export_names_modules_and_not_their_ends(tmp_path):
    torch.manual_seed(0)
    base, x = Nested(), torch.randn(3, 4)
    model = lopsided.adapt(copy.deepcopy(base), "asym_b", r=2, target_modules="fc")
    assert len(layers_of(model)) == 1
    with torch.no_grad():
        first(model).lopsided_B["default"].weight.normal_()
    lopsided.to_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    torch.testing.assert_close(lora(x), model(x), atol=1e-5, rtol=0)
    assert sum("lora_A" in name for name, _ in lora.named_parameters()) == 1


@pytest.mark.parametrize("sketch", [Singular(), Columns()])
def test_a_coin_with_a_stored_sketch_comes_back(sketch, tmp_path):
    method = Method(name="coin", train="coin", sketch=sketch, chain=Chain(links=5), source="test")
    base, x = network()
    # A seed whose coin falls on both sides within the chain, in one layer.
    of_link = method.adapter_side.of_link
    tosses = {s: {of_link(layer_seed(s, "first"), link) for link in range(5)} for s in range(20)}
    seed = next(s for s, sides in tosses.items() if sides == {A(), B()})
    model = adapted(method, copy.deepcopy(base), seed=seed)
    optimizer = optimizer_of(model)
    for _ in range(4):
        take_steps(model, optimizer, x, 1)
        lopsided.advance_chain(model, optimizer)
    take_steps(model, optimizer, x, 1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    assert torch.equal(loaded(x), model(x))


def test_split_checks_look_only_at_what_is_trained():
    base, x = network()
    model = adapted(METHODS["lora_plus"], base)
    model.add_adapter("plain", LopsidedConfig(method="cla", **TARGETS))
    model.set_adapter("plain")
    take_steps(model, torch.optim.AdamW(model.parameters(), lr=1e-3), x, 1)
    # A hand-written warm-up begins at zero for both factors.
    model.set_adapter("default")
    optimizer = optimizer_of(model)
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_steps(model, optimizer, x, 1)
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate
    take_steps(model, optimizer, x, 1)


def test_an_optimizer_without_all_factors_is_refused_before_it_is_touched():
    base, x = network()
    model = adapted(METHODS["c3la"], base)
    factors = [layer.lopsided_B["default"].weight for layer in layers_of(model).values()]
    optimizer = torch.optim.AdamW(factors[:1], lr=1e-2)
    take_steps(model, optimizer, x, 1)
    before = optimizer.state[factors[0]]["exp_avg"].clone()
    with pytest.raises(LopsidedError, match="does not hold"):
        lopsided.advance_chain(model, optimizer)
    assert torch.equal(optimizer.state[factors[0]]["exp_avg"], before)


def test_a_chain_without_any_length_is_refused():
    with pytest.raises(LopsidedError, match="neither links nor every"):
        Chain().boundaries(10)


def test_users_sketches_keep_their_names_and_arguments_apart():
    with pytest.raises(LopsidedError, match=r"Columns is taken by lopsided\.method\.selectors"):
        type("Columns", (Selector,), {"choose": lambda self, r, d, *, seed, link: np.arange(r)})
    with pytest.raises(LopsidedError, match="defines __init__"):
        type("Scaled", (Sketch,), {"__init__": lambda self, scale: None})

    @dataclass(frozen=True)
    class Declared(Sketch):
        scale: float = 1.0

        def draw(self, r, d, *, seed, link, weight):
            return np.full((r, d), self.scale) + np.eye(r, d)

    method = Method(name="declared", train="B", sketch=Declared(scale=5.0), source="test")
    model = lopsided.adapt(network()[0], method, **TARGETS)
    assert float(first(model).frozen["default"].sketch[0, 1]) == 5.0


def test_heads_of_other_tasks_are_trained_too():
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=40)
    model = lopsided.adapt(BertForMultipleChoice(config), "cla", r=2, target_modules=["query"])
    assert any("classifier" in name for name, p in model.named_parameters() if p.requires_grad)


def test_a_config_says_when_its_parts_are_another_methods():
    config = LopsidedConfig(method="c3la", r=2)
    with pytest.raises(LopsidedError, match="'lora' comes with the parts of 'c3la'"):
        dataclasses.replace(config, method="lora")
    assert get_peft_model(network()[0], LopsidedConfig(method="c3la", **TARGETS)).peft_config["default"].link == 0
