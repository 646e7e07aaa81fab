"""PEFT's helpers on adapters of lopsided: weighted sums, rescaling, conversion, casts."""

from __future__ import annotations

import peft.helpers
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from peft.tuners.lora.conversion import convert_to_lora, save_as_lora
from torch import nn

import lopsided
from lopsided import LopsidedConfig, LopsidedError, advance_chain
from lopsided.tuner import layers_of
from tests import tiny

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))


def fill(model, adapter: str, scale: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(len(adapter))
    with torch.no_grad():
        for layer in layers_of(model, adapter).values():
            for factor in layer.trained(adapter).values():
                factor.add_(torch.randn(factor.shape, generator=generator), alpha=scale)


def trained(name: str, targets=("0", "2")) -> PeftModel:
    links = {"links": 3} if name in tiny.CHAINS else {}
    model = lopsided.adapt(network(), name, r=2, target_modules=list(targets), **links).eval()
    fill(model, "default")
    for _ in range(2 if links else 0):
        advance_chain(model)
        fill(model, "default")
    return model


def delta(model, adapter: str) -> dict[str, torch.Tensor]:
    return {name: layer.get_delta_weight(adapter).detach() for name, layer in layers_of(model, adapter).items()}


@pytest.mark.parametrize("name", tiny.ADAPTERS)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, -1.5), (0.0, 2.0)])
def test_a_weighted_sum_is_exact(name, weights):
    model = trained(name)
    model.add_adapter("b", LopsidedConfig(method="cla", r=3, target_modules=["2", "4"]))
    fill(model, "b")
    expected: dict[str, torch.Tensor] = {}
    for adapter, weight in zip(("default", "b"), weights):
        for module, part in delta(model, adapter).items():
            expected[module] = expected.get(module, 0) + weight * part
    model.add_weighted_adapter(["default", "b"], list(weights), "sum", combination_type="cat")
    found = delta(model, "sum")
    assert found.keys() == expected.keys()
    for module, part in expected.items():
        torch.testing.assert_close(found[module], part, rtol=1e-5, atol=1e-6)
    model.set_adapter("sum")
    if weights == (1.0, 1.0):
        summed = model(X)
        model.base_model.set_adapter(["default", "b"])
        torch.testing.assert_close(summed, model(X), rtol=1e-5, atol=1e-5)


def test_a_weighted_sum_is_an_adapter_like_others(tmp_path):
    model = trained("rac_b")
    model.add_weighted_adapter(["default"], [0.5], "smaller")
    model.set_adapter("smaller")
    expected = model(X)
    model.save_pretrained(tmp_path, selected_adapters=["smaller"])
    loaded = PeftModel.from_pretrained(network(), str(tmp_path / "smaller")).eval()
    assert torch.equal(loaded(X), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["default"], [1.0], "new", "svd"), "combination_type='svd' is not exact.*to_lora"),
        ((["default"], [1.0], "new", "linear"), "combination_type='linear' is not exact"),
        ((["default", "nobody"], [1.0, 1.0], "new"), "no adapter is named 'nobody'"),
        ((["default"], [1.0, 2.0], "new"), "one weight per adapter, got 2 for 1"),
        (([], [], "new"), "one weight per adapter"),
        ((["default"], [1.0], "default"), "has an adapter 'default' already"),
    ],
)
def test_a_weighted_sum_that_is_none_is_refused(arguments, message):
    model = trained("cla")
    with pytest.raises(LopsidedError, match=message):
        model.add_weighted_adapter(*arguments)
    assert list(model.peft_config) == ["default"]


def test_an_option_of_another_combination_is_not_ignored():
    with pytest.raises(LopsidedError, match="density is for approximate combinations"):
        trained("cla").add_weighted_adapter(["default"], [1.0], "new", density=0.5)


def test_trained_heads_are_not_summed():
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
    with pytest.raises(LopsidedError, match=r"trains .'classifier', 'score'."):
        model.add_weighted_adapter(["default"], [1.0], "new")


@pytest.mark.parametrize("name", tiny.ADAPTERS)
@pytest.mark.parametrize("merged", [False, True])
def test_the_scale_is_changed_for_a_while(name, merged):
    model = trained(name)
    base, full = network()(X), model(X)
    if merged:
        model.merge_adapter()
    with peft.helpers.rescale_adapter_scale(model, 0.0):
        torch.testing.assert_close(model(X), base)
    with peft.helpers.rescale_adapter_scale(model, 0.5):
        inside = model(X)
    torch.testing.assert_close(model(X), full)
    stock = get_peft_model(network(), LoraConfig(r=6, lora_alpha=3, target_modules=["0", "2"])).eval()
    for module, layer in layers_of(model).items():
        terms = [t.dense() for t in layer.terms("default", torch.device("cpu"))]
        A, B = torch.cat([A for A, _ in terms]), torch.cat([B for _, B in terms], dim=1) * layer.scaling["default"]
        theirs = stock.get_submodule(module)
        theirs.lora_A["default"].weight.data.zero_()[: len(A)].copy_(A)
        theirs.lora_B["default"].weight.data.zero_()[:, : len(A)].copy_(B)
    torch.testing.assert_close(inside, stock(X), rtol=1e-4, atol=1e-5)


def test_rescaling_comes_back_after_an_error_and_leaves_other_tuners_alone():
    model = trained("rac_b")
    full = model(X)
    with pytest.raises(KeyError), peft.helpers.rescale_adapter_scale(model, 0.5):
        raise KeyError
    assert torch.equal(model(X), full)
    with pytest.raises(TypeError, match="multiplier"), peft.helpers.rescale_adapter_scale(model, "a half"):
        pass
    lora = get_peft_model(network(), LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)).eval()
    before = lora(X)
    with peft.helpers.rescale_adapter_scale(lora, 0.0):
        torch.testing.assert_close(lora(X), network()(X))
    assert torch.equal(lora(X), before)


def test_a_rescaled_adapter_is_saved_with_its_own_scale(tmp_path):
    model = trained("c3la")
    full = model(X)
    with peft.helpers.rescale_adapter_scale(model, 0.5):
        model.save_pretrained(tmp_path)
    torch.testing.assert_close(PeftModel.from_pretrained(network(), str(tmp_path)).eval()(X), full)


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_pefts_own_conversion_to_lora(name, tmp_path):
    model = trained(name)
    config, state = convert_to_lora(model, rank=6)
    assert config.r == 6
    assert len(state) == 4
    save_as_lora(tmp_path, model, rank=6)
    stock = PeftModel.from_pretrained(network(), str(tmp_path)).eval()
    torch.testing.assert_close(stock(X), model(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lora", "asym_b", "cla", "asym_a", "rac_b"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_input_is_left_in_its_precision(name, dtype):
    model = trained(name).to(dtype)
    seen = []
    with disable_input_dtype_casting(model), torch.no_grad():
        out = model(X.to(dtype))
        seen.append(out.dtype)
    assert seen == [dtype]
    assert all(layer.cast_input_dtype_enabled for layer in layers_of(model).values())
    torch.testing.assert_close(out, model(X.to(dtype)), rtol=0.05, atol=0.05)
