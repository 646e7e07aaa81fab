"""Base weights of every kind: tied, shared, strided, computed, trained, wide."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.nn.utils import parametrizations

import lopsided
from lopsided import METHODS, LopsidedError
from lopsided.testing import adapted as on_network
from lopsided.testing import network
from lopsided.tuner import layers_of
from tests import tiny
from tests.behave.cases import (
    adapted,
    assert_base_is_original,
    assert_gradients,
    assert_near,
    assert_same_bits,
    base,
    fill,
    logits,
    oracle,
    oracle_gradients,
    original,
    walk,
)
from tests.behave.layer import METHODS_EACH, dense, one_layer, step


@METHODS_EACH
def test_a_tied_head_leaves_the_embedding_alone(method, tmp_path):
    plain = original("gpt2")
    assert plain.lm_head.weight is plain.transformer.wte.weight
    with_head = {"target_modules": ["c_attn", "lm_head"]}
    model = walk(adapted("gpt2", method, **with_head))
    ids = tiny.inputs(model)["input_ids"]
    assert torch.equal(model.get_input_embeddings()(ids), plain.get_input_embeddings()(ids))
    assert_near(logits(model), oracle("gpt2", model, ["default"]))
    model(**tiny.inputs(model)).logits.square().mean().backward()
    assert_gradients(model, oracle_gradients("gpt2", model))
    assert_base_is_original(model, "gpt2")
    head = model.base_model.model.lm_head
    assert head.base_layer.weight is model.base_model.model.transformer.wte.weight
    expected = logits(model)
    for merge in (head.merge, model.merge_adapter, model.merge_and_unload):
        with pytest.raises(LopsidedError, match="shares its weight"):
            merge()
        assert not any(layer.merged for layer in layers_of(model).values()), "half a merge"
        assert torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base("gpt2"), str(tmp_path))
    assert torch.equal(logits(loaded), logits(model))
    bare = model.unload()
    assert bare.lm_head.weight is bare.transformer.wte.weight
    assert_base_is_original(bare, "gpt2")


class Twice(nn.Module):
    """One layer that a forward pass goes through two times, as weight-sharing transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.tanh(self.fc(x)))


@METHODS_EACH
def test_a_layer_used_twice_in_one_forward(method):
    model = lopsided.adapt(Twice(), method, r=2, target_modules=["fc"], merge_links=False).eval()
    [layer] = layers_of(model).values()
    step(model)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = model(x)
    assert_near(out.detach(), dense(layer, torch.tanh(dense(layer, x))))
    [factor] = list(layer.trained("default").values())[-1:]
    direction = torch.randn(factor.shape, generator=torch.Generator().manual_seed(2))
    slope = (torch.autograd.grad(out.square().sum(), factor)[0] * direction).sum()

    def loss(t: float) -> float:
        with torch.no_grad():
            factor.add_(direction, alpha=t)
            value = dense(layer, torch.tanh(dense(layer, x))).square().sum()
            factor.sub_(direction, alpha=t)
        return float(value)

    assert float(slope) == pytest.approx((loss(1e-3) - loss(-1e-3)) / 2e-3, rel=1e-3)


def strided(kind: str) -> nn.Linear:
    torch.manual_seed(0)
    linear = nn.Linear(7, 9)
    whole = torch.randn(18, 14)
    view = {"transposed": torch.randn(7, 9).T, "every second": whole[::2, ::2], "part": whole[3:12, 5:12]}[kind]
    linear.weight = nn.Parameter(view)
    assert not linear.weight.is_contiguous()
    return linear


@METHODS_EACH
@pytest.mark.parametrize("kind", ["transposed", "every second", "part"])
def test_a_weight_that_is_not_contiguous(method, kind, tmp_path):
    linear = strided(kind)
    strides, bits = linear.weight.stride(), linear.weight.detach().clone()
    model, layer = one_layer(linear, method)
    x = torch.randn(5, 7, requires_grad=True)
    step(model)
    out = model(x)
    out.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.trained("default").values())
    with model.disable_adapter():
        assert_same_bits(layer.base_layer.weight.detach(), bits, kind)
        expected = dense(layer, x)
    assert_near(out.detach(), expected)
    model.merge_adapter()
    assert_near(model(x).detach(), expected)
    model.unmerge_adapter()
    assert torch.equal(model(x), out)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(nn.Sequential(strided(kind)), str(tmp_path))
    assert torch.equal(loaded(x), out)
    bare = model.unload()
    assert_same_bits(bare[0].weight.detach(), bits, kind)
    assert bare[0].weight.stride() == strides


@METHODS_EACH
@pytest.mark.parametrize("shape", [(4, 4), (4, 6), (6, 4)], ids=str)
def test_a_rank_as_large_as_the_width(method, shape):
    torch.manual_seed(0)
    d_out, d_in = shape
    r = METHODS[method].sketched_width(d_out, d_in)
    model, layer = one_layer(nn.Linear(d_in, d_out), method, r=r, merge_links=False)
    x = torch.randn(5, d_in)
    assert torch.equal(model(x), layer.base_layer(x))
    step(model)
    assert_near(model(x).detach(), dense(layer, x))
    with pytest.raises(LopsidedError, match=f"r={r + 1}"):
        one_layer(nn.Linear(d_in, d_out), method, r=r + 1)


@METHODS_EACH
def test_a_base_that_learns_too_gets_its_gradients(method):
    """A user may unfreeze biases, or weights: then theirs are right as well."""
    for unfrozen in ("bias", "weight"):
        torch.manual_seed(0)
        model, layer = one_layer(nn.Linear(7, 5), method, merge_links=False)
        step(model)
        parameter = getattr(layer.base_layer, unfrozen).requires_grad_()
        x = torch.randn(6, 7)
        model(x).square().sum().backward()
        g = 2 * dense(layer, x)
        assert_near(parameter.grad, g.sum(0) if unfrozen == "bias" else g.T @ x.double())


@METHODS_EACH
@pytest.mark.parametrize("parametrization", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_a_weight_that_is_computed_is_refused(method, parametrization):
    """A parametrized weight is a new tensor at each look: what is written into it is gone."""
    net = nn.Sequential(nn.Linear(6, 6), parametrization(nn.Linear(6, 6)))
    x = torch.randn(4, 6)
    expected = net(x)
    with pytest.raises(LopsidedError, match="parametri"):
        lopsided.adapt(net, method, r=2, target_modules=["0", "1"])
    assert torch.equal(net(x), expected)
    assert type(net[0]) is nn.Linear


class Doubled(nn.Linear):
    """A user's own kind of layer: what it computes is not W·x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@METHODS_EACH
def test_a_layer_of_another_kind_is_not_taken_for_its_product(method):
    torch.manual_seed(0)
    linear, x = Doubled(7, 5), torch.randn(6, 7)
    model, layer = one_layer(copy.deepcopy(linear), method)
    fill(model)
    expected = linear(x) + layer.get_delta_weight("default").matmul(x.T).T
    assert_near(model(x).detach(), expected.detach())
    if METHODS[method].chain:
        lopsided.advance_chain(model)
        assert_near(model(x).detach(), expected.detach())
    with model.disable_adapter():
        assert torch.equal(model(x), linear(x))


@METHODS_EACH
def test_a_double_precision_base(method):
    net, x = network()
    model = on_network(METHODS[method], net.double())
    x = x.double()
    fill(model)
    before = model(x)
    assert before.dtype == torch.float64
    if METHODS[method].chain:
        lopsided.advance_chain(model)
        assert_near(model(x).detach(), before.detach(), share=1e-6)
        fill(model, seed=1)
    expected = model(x)
    expected.square().sum().backward()
    model.merge_adapter()
    assert_near(model(x).detach(), expected.detach(), share=1e-6)
    model.unmerge_adapter()
    assert torch.equal(model(x), expected)
    with model.disable_adapter():
        for name in ("first", "second"):
            layer, plain = model.base_model.model.get_submodule(name), network()[0].double().get_submodule(name)
            assert_same_bits(layer.base_layer.weight.detach(), plain.weight.detach(), name)
