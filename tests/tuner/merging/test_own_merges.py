"""`make_merges_exact`: a stock model's own calls, with PEFT's bookkeeping, on copies and on what comes later."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from accelerate import cpu_offload
from peft import PeftModel, get_peft_model
from torch import nn

import lopsided
from lopsided import LopsidedError
from tests.tuner.merging import stock
from tests.tuner.merging.test_exact_merge import assert_rounded_once, in_float64

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def exact(layer="linear", option="plain", dtype=torch.float32, **more) -> PeftModel:
    model = stock.lora(layer, option, dtype, **more)
    lopsided.make_merges_exact(model)
    return model


def the_layer(model: nn.Module):
    return model.base_model.model.layer


def test_a_second_call_changes_nothing():
    model = exact()
    layer = the_layer(model)
    weights, classes = dict(layer.exact_state.weights), [type(module) for module in model.modules()]
    lopsided.make_merges_exact(model)
    assert layer.exact_state.weights == weights
    model.merge_adapter()
    lopsided.make_merges_exact(model)
    assert [type(module) for module in model.modules()] == classes
    before = stock.base_weights(stock.lora("linear"))
    model.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(model), before)


def test_names_states_and_saved_files_are_peft_s(tmp_path):
    plain, model = stock.lora("linear"), exact()
    assert list(dict(model.named_parameters())) == list(dict(plain.named_parameters()))
    assert list(model.state_dict()) == list(plain.state_dict())
    model.merge_adapter()
    model.save_pretrained(tmp_path)
    assert "lopsided" not in "".join(path.read_bytes().decode("latin1") for path in tmp_path.iterdir())
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(stock.Net(nn.Linear(6, 5)), str(tmp_path))
    model.unmerge_adapter()
    torch.testing.assert_close(again(X), model(X))


@pytest.mark.parametrize("where", ["model", "layer"])
def test_merges_of_the_model_and_of_a_layer_keep_peft_s_books(where):
    model = exact("linear", "bias", torch.bfloat16)
    model.add_adapter("second", stock.config("linear", "dora"))
    stock.stirred(model, 1)
    twin = copy.deepcopy(model)
    layer, other = the_layer(model), the_layer(stock.lora("linear", "bias", torch.bfloat16))
    owner = {"model": (model.merge_adapter, model.unmerge_adapter), "layer": (layer.merge, layer.unmerge)}[where]
    merge, unmerge = owner
    before, delta = stock.base_weights(model), layer.get_delta_weight("default")
    with pytest.warns(UserWarning, match="Already unmerged"):
        unmerge()
    merge()
    assert layer.merged
    assert layer.merged_adapters == ["default"]
    assert torch.equal(layer.get_delta_weight("default"), delta)
    with pytest.warns(UserWarning, match="All adapters are already merged"):
        merge()
    with pytest.warns(UserWarning, match="additionally merging second"):
        merge(adapter_names=["default", "second"])
    assert layer.merged_adapters == ["default", "second"]
    assert_rounded_once(stock.base_weights(model), in_float64_of(twin))
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("second")
    unmerge()
    assert layer.merged_adapters == other.merged_adapters == []
    assert stock.same_bits(stock.base_weights(model), before)


def in_float64_of(model):
    """Stock PEFT's merge of both adapters, in float64: of the same numbers, in layers of PEFT's own class."""
    plain = stock.lora("linear", "bias", torch.bfloat16)
    plain.add_adapter("second", stock.config("linear", "dora"))
    plain.load_state_dict(model.state_dict())
    return in_float64(plain, ["default", "second"])


def test_switching_adapters_unmerges_as_in_peft():
    model = exact()
    model.add_adapter("second", stock.config("linear"))
    before = stock.base_weights(model)
    model.merge_adapter()
    with pytest.warns(UserWarning, match="Unmerging the model first"):
        model.set_adapter("second")
    assert not the_layer(model).merged
    assert stock.same_bits(stock.base_weights(model), before)


def test_factors_and_scales_that_move_while_merged_are_not_taken_out():
    model = exact(dtype=torch.bfloat16)
    before = stock.base_weights(model)
    model.merge_adapter()
    stock.stirred(model, 5)
    the_layer(model).scaling["default"] = 0.1
    model.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(model), before)


@pytest.mark.parametrize("layer", ["linear", "embedding", "conv2d", "experts"])
@pytest.mark.parametrize("merged", [False, True], ids=["unmerged", "merged"])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_exact_too_and_independent(way, merged, layer):
    model = exact(layer, dtype=torch.bfloat16)
    before = stock.base_weights(model)
    if merged:
        model.merge_adapter()
    now = stock.base_weights(model)
    if way == "torch.save":
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    else:
        twin = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    for _ in range(3):
        if not the_layer(twin).merged:
            twin.merge_adapter()
        twin.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(twin), before)
    assert stock.same_bits(stock.base_weights(model), now)
    if merged:
        model.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(model), before)


def test_a_copy_of_tied_layers_stays_tied():
    model = stock.tied(torch.bfloat16)
    lopsided.make_merges_exact(model)
    before = stock.base_weights(model)
    model.merge_adapter()
    twin = copy.deepcopy(model)
    head = twin.base_model.model.head.exact_state.weights["weight"]
    assert head is twin.base_model.model.embed.exact_state.weights["weight"]
    assert head is not model.base_model.model.head.exact_state.weights["weight"]
    # One layer after the other, in both orders.
    both, one = stock.base_weights(twin), []
    for names in (("head", "embed"), ("embed", "head")):
        for name in names:
            twin.base_model.model.get_submodule(name).unmerge()
            one.append(stock.base_weights(twin)["embed.weight"])
        twin.base_model.model.between.unmerge()
        assert stock.same_bits(stock.base_weights(twin), before)
        twin.merge_adapter()
        assert stock.same_bits(stock.base_weights(twin), both)
    assert not torch.equal(one[0], one[2])


def test_weights_that_are_tied_or_untied_later():
    model = exact()
    layer = the_layer(model)
    first = layer.exact_state.weights["weight"]
    layer.base_layer.weight = nn.Parameter(layer.base_layer.weight.detach().clone())
    model.merge_adapter()
    assert layer.exact_state.weights["weight"] is first
    model.unmerge_adapter()
    tied = stock.tied()
    lopsided.make_merges_exact(tied)
    head = tied.base_model.model.head
    head.base_layer.weight = nn.Parameter(head.base_layer.weight.detach().clone())
    with pytest.raises(LopsidedError, match=r"was tied to embed\.weight and is not any more"):
        tied.merge_adapter()
    lopsided.make_merges_exact(tied)
    before = stock.base_weights(tied)
    tied.merge_adapter()
    tied.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(tied), before)


def test_adapters_and_layers_that_come_later_merge_exactly():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).bfloat16()
    model = get_peft_model(net, stock.config("linear", target_modules=["0"]))
    lopsided.make_merges_exact(model)
    before = stock.base_weights(model)
    model.add_adapter("second", stock.config("linear", target_modules=["0", "2"]))
    model.set_adapter("second")
    assert type(model.base_model.model[2]).__name__ == "ExactLinear"
    for _ in range(20):
        model.merge_adapter()
        model.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(model), before)
    # One that cannot be exact is refused when it is merged, and the others go on.
    model.add_adapter("third", stock.config("linear", target_modules=["2"], alora_invocation_tokens=[1]))
    with pytest.raises(LopsidedError, match=r"adapter 'third' of 2 .*aLoRA"):
        model.merge_adapter(["second", "third"])
    assert stock.same_bits(stock.base_weights(model), before)
    assert not model.base_model.model[0].merged


@pytest.mark.parametrize("dtype", stock.DTYPES, ids=str)
def test_merge_and_unload_rounds_once_and_unload_is_the_base(dtype):
    expected = in_float64(stock.lora("linear", "bias", dtype))
    for merged in (False, True):
        model = exact("linear", "bias", dtype)
        before = stock.base_weights(model)
        if merged:
            model.merge_adapter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = model.merge_and_unload()
        assert_rounded_once(stock.base_weights(whole), expected)
        assert type(whole.layer) is nn.Linear
        model = exact("linear", "bias", dtype)
        if merged:
            model.merge_adapter()
        assert stock.same_bits(stock.base_weights(model.unload()), before)


@pytest.mark.parametrize("layer", ["linear", "embedding", "conv2d", "experts"])
def test_safe_merge_refuses_what_is_not_finite_and_changes_nothing(layer):
    model = exact(layer, dtype=torch.bfloat16)
    before = stock.base_weights(model)
    factor = next(p for n, p in model.named_parameters() if "lora_" in n)
    with torch.no_grad():
        factor.view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=r"NaNs detected in the merged weights.*default"):
        model.merge_adapter(safe_merge=True)
    assert stock.same_bits(stock.base_weights(model), before)
    assert not the_layer(model).merged
    # Without it PEFT merges NaN; here it comes out again.
    model.merge_adapter()
    assert any(weight.isnan().any() for weight in stock.base_weights(model).values())
    model.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(model), before)


def test_special_numbers_of_a_weight_come_back_with_their_bits():
    model = exact(dtype=torch.bfloat16)
    weight = the_layer(model).base_layer.weight
    with torch.no_grad():
        weight[0, :6] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 1e-40, 3e38])
    before = stock.base_weights(model)
    model.merge_adapter()
    model.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(model), before)


def test_a_gain_of_zero_loses_nothing():
    model = exact("linear", "dora", torch.bfloat16)
    with torch.no_grad():
        the_layer(model).lora_magnitude_vector["default"].weight[:3] = torch.tensor([0.0, 1e-38, -1e30])
    before = stock.base_weights(model)
    model.merge_adapter()
    assert not stock.base_weights(model)["layer.weight"][0].any()
    model.unmerge_adapter()
    assert stock.same_bits(stock.base_weights(model), before)


def test_layers_that_accelerate_keeps_elsewhere():
    model = stock.three_layers(torch.float32)
    expected = stock.base_weights(model)
    with lopsided.exact_merge(model):
        merged = stock.base_weights(model)
    cpu_offload(model)
    x = torch.randn(2, 400)
    plain = model(x)
    with lopsided.exact_merge(model):
        inside = {n: read(model, n) for n in expected}
        assert stock.same_bits(inside, merged)
    assert stock.same_bits({n: read(model, n) for n in expected}, expected)
    assert torch.equal(model(x), plain)


def read(model, name: str) -> torch.Tensor:
    """A parameter of an offloaded base layer, brought in for a moment."""
    layer, parameter = name.split(".")
    base = model.base_model.model.get_submodule(layer).base_layer
    return base._hf_hook.weights_map[parameter].clone()
