"""Layers whose forward is not the product of their weight: nothing is merged into them, and nothing changes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook, add_hook_to_module
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

import lopsided
from lopsided import LopsidedError, LopsidedWarning
from lopsided.tuner import layers_of
from lopsided.tuner.forward.plain_product import why_no_product
from tests import tiny


class Inherits(nn.Linear):
    """Computes what nn.Linear does."""


class Scaled(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 3.0, self.bias)


class Normed(nn.Linear):
    def forward(self, x):
        return F.linear(x, F.normalize(self.weight, dim=1), self.bias)


class After(nn.Linear):
    def forward(self, x):
        return torch.tanh(super().forward(x))


class Rounded(nn.Linear):
    """As layers that train with quantized weights are."""

    def forward(self, x):
        return F.linear(x, (self.weight * 8).round() / 8, self.bias)


class Tied(nn.Linear):
    def __init__(self, d_in, d_out, **options):
        super().__init__(d_in, d_out, **options)
        self.other = nn.Parameter(torch.randn(d_in, d_out))

    def forward(self, x):
        return F.linear(x, self.other.t(), self.bias)


class ScaledConv1D(Conv1D):
    def forward(self, x):
        return 2.0 * super().forward(x)


class Caller(nn.Linear):
    def __call__(self, x):
        return 2.0 * super().__call__(x)


class Doubles(ModelHook):
    def post_forward(self, module, output):
        return 2.0 * output


def linear(prepare=None):
    def build():
        layer = nn.Linear(6, 5)
        if prepare is not None:
            prepare(layer)
        return layer

    return build


def replace_forward(layer):
    layer.forward = lambda x: 2.0 * F.linear(x, layer.weight, layer.bias)


PRODUCTS = {
    "linear": linear(),
    "no bias": lambda: nn.Linear(6, 5, bias=False),
    "subclass": lambda: Inherits(6, 5),
    "Conv1D": lambda: Conv1D(5, 6),
    "FalconLinear": lambda: FalconLinear(6, 5),
    "moved by accelerate": linear(lambda layer: add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu"))),
    "moved twice": linear(
        lambda layer: add_hook_to_module(
            layer, SequentialHook(AlignDevicesHook(io_same_device=True), AlignDevicesHook(execution_device="cpu"))
        )
    ),
}
OTHERS = {
    "Scaled": lambda: Scaled(6, 5),
    "Normed": lambda: Normed(6, 5),
    "After": lambda: After(6, 5),
    "Rounded": lambda: Rounded(6, 5),
    "Tied": lambda: Tied(6, 5),
    "ScaledConv1D": lambda: ScaledConv1D(5, 6),
    "Caller": lambda: Caller(6, 5),
    "quantization-aware": lambda: torch.ao.nn.qat.Linear(
        6, 5, qconfig=torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    ),
    "forward of the instance": linear(replace_forward),
    "forward hook": linear(lambda layer: layer.register_forward_hook(lambda module, args, out: 2.0 * out)),
    "forward pre-hook": linear(lambda layer: layer.register_forward_pre_hook(lambda module, args: (2.0 * args[0],))),
    "another hook of accelerate": linear(lambda layer: add_hook_to_module(layer, Doubles())),
    "weight_norm": linear(lambda layer: nn.utils.weight_norm(layer)),
}


def adapted(build, method="cla", **options):
    torch.manual_seed(0)
    model = lopsided.adapt(nn.Sequential(build()), method, r=2, target_modules=["0"], **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model


def output(model):
    with torch.no_grad():
        return model(torch.randn(3, 6, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", PRODUCTS)
def test_a_product_is_known_as_one_and_takes_merges(kind):
    assert why_no_product(PRODUCTS[kind]()) is None
    model = adapted(PRODUCTS[kind])
    before = output(model)
    model.merge_adapter()
    torch.testing.assert_close(output(model), before, atol=1e-5, rtol=0)
    model.unmerge_adapter()
    assert torch.equal(output(model), before)


@pytest.mark.parametrize("kind", OTHERS)
def test_nothing_is_merged_into_another_function(kind):
    model = adapted(OTHERS[kind])
    before = output(model)
    words = r"^0 can't be written to, got a merge: .*(hook|of its own|a Tensor of)"
    for merge in (model.merge_adapter, lambda: model.merge_adapter(safe_merge=True), model.merge_and_unload):
        with pytest.raises(LopsidedError, match=words) as error:
            merge()
        assert "\n" not in str(error.value)
        assert torch.equal(output(model), before)
    with pytest.raises(LopsidedError, match="got merge_links=True"):
        adapted(OTHERS[kind], "rac_b", links=3, merge_links=True)


@pytest.mark.parametrize("name", tiny.CHAINS)
@pytest.mark.parametrize("kind", [*OTHERS, "subclass", "FalconLinear"])
def test_a_chain_keeps_its_function_at_an_advance(kind, name):
    build = {**PRODUCTS, **OTHERS}[kind]
    model = adapted(build, name, links=3)
    [layer] = layers_of(model).values()
    original = layer.base_layer.weight.detach().clone()
    for _ in range(2):
        with torch.no_grad():
            for factor in layer.trained("default").values():
                factor.normal_()
        before = output(model)
        lopsided.advance_chain(model)
        torch.testing.assert_close(output(model), before, atol=2e-5, rtol=0)
    assert torch.equal(layer.base_layer.weight, original) == (kind in OTHERS)


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from([*PRODUCTS, *OTHERS]), method=st.sampled_from(tiny.ADAPTERS), safe=st.booleans())
def test_a_merge_is_the_same_function_or_refused(kind, method, safe):
    model = adapted({**PRODUCTS, **OTHERS}[kind], method)
    before = output(model)
    try:
        model.merge_adapter(safe_merge=safe)
    except LopsidedError:
        assert kind in OTHERS
    else:
        assert kind in PRODUCTS
    torch.testing.assert_close(output(model), before, atol=2e-5, rtol=1e-5)


def test_a_hook_that_comes_later_moves_no_past_link():
    """Past links are in the weight when a hook is registered: switching must leave them there."""
    model = adapted(linear(), "rac_b", links=3)
    lopsided.advance_chain(model)
    before = output(model)
    [layer] = layers_of(model).values()
    handle = layer.base_layer.register_forward_hook(lambda module, args, out: None)
    model.set_adapter("default")
    assert torch.equal(output(model), before)
    lopsided.advance_chain(model)
    with pytest.raises(LopsidedError, match="has forward hooks"):
        model.merge_adapter()
    handle.remove()
    model.merge_adapter()
    torch.testing.assert_close(output(model), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["Scaled", "After", "forward of the instance"])
def test_an_export_is_the_same_function_unmerged_and_says_so(kind, tmp_path):
    base = OTHERS[kind]
    model = adapted(base)
    with pytest.warns(LopsidedWarning, match="merging the exported adapter would change the function in") as caught:
        lopsided.to_lora(model, tmp_path)
    assert "\n" not in str(caught[0].message)
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(nn.Sequential(base()), str(tmp_path))
    torch.testing.assert_close(output(loaded), output(model), atol=1e-5, rtol=0)


def test_stock_peft_has_another_function_after_a_merge_there():
    """Why merges are refused: not for rounding."""
    torch.manual_seed(0)
    lora = get_peft_model(nn.Sequential(Scaled(6, 5)), LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
    before = output(lora)
    lora.merge_adapter()
    assert (output(lora) - before).abs().max() > 0.1


def test_falcons_layer_is_the_product():
    """The evidence for SAME_PRODUCTS."""
    for d_in, d_out, bias in ((6, 5, True), (6, 5, False), (1, 3, True)):
        layer, x = FalconLinear(d_in, d_out, bias=bias).double(), torch.randn(2, 4, d_in, dtype=torch.float64)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-12, rtol=0)
    # A forward on top of it is another one.
    assert why_no_product(type("Other", (FalconLinear,), {"forward": lambda self, x: 2 * x})(3, 3)) is not None


def test_copies_keep_the_rule():
    model = copy.deepcopy(adapted(OTHERS["Scaled"], "rac_b", links=3))
    before = output(model)
    lopsided.advance_chain(model)
    torch.testing.assert_close(output(model), before, atol=1e-5, rtol=0)
    with pytest.raises(LopsidedError, match="forward of its own"):
        model.merge_adapter()
