"""Inputs of every shape and layout, and what users hang around a layer: hooks, threads, dropout."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from lopsided.tuner import LopsidedLinear
from tests.behave.cases import assert_base_is_original, assert_near, assert_same_bits, fill, logits, trained
from tests.behave.layer import METHODS_EACH, dense, one_layer, step

SHAPES = [(7,), (1, 7), (0, 7), (2, 0, 7), (2, 3, 7), (2, 1, 3, 7)]


@METHODS_EACH
def test_every_shape_of_batch(method):
    torch.manual_seed(0)
    model, layer = one_layer(nn.Linear(7, 5), method, merge_links=False)
    step(model)
    for shape in SHAPES:
        x = torch.randn(shape, requires_grad=True)
        out = model(x)
        assert out.shape == (*shape[:-1], 5)
        if out.numel():
            assert_near(out.detach(), dense(layer, x))
        model.zero_grad()
        out.square().sum().backward()
        assert x.grad.shape == shape
        for factor in layer.trained("default").values():
            assert factor.grad.shape == factor.shape
            assert bool(factor.grad.any()) == (out.numel() > 0)


@METHODS_EACH
def test_inputs_that_are_views_or_frozen(method):
    torch.manual_seed(0)
    model, layer = one_layer(nn.Linear(7, 5), method, merge_links=False)
    step(model)
    transposed, every_second = torch.randn(7, 6).T, torch.randn(6, 14)[:, ::2]
    expanded, permuted = torch.randn(1, 7).expand(6, 7), torch.randn(3, 7, 2).permute(2, 0, 1)
    for x in (transposed, every_second, expanded, permuted):
        for wanted in (True, False):
            model.zero_grad()
            out = model(x.requires_grad_(wanted))
            out.square().sum().backward()
            assert_near(out.detach(), dense(layer, x))
            expected = _factor_gradient(layer, x)
            for letter, factor in layer.trained("default").items():
                assert_near(factor.grad[:, : expected[letter].shape[1]], expected[letter])


def _factor_gradient(layer: LopsidedLinear, x: torch.Tensor) -> dict[str, torch.Tensor]:
    rows = x.detach().double().reshape(-1, x.shape[-1])
    g = 2 * dense(layer, rows)
    A, B = (factor.detach().double() for factor in layer.terms("default", torch.device("cpu"))[-1].dense())
    s = layer.scaling["default"]
    by_letter = {"A": s * (g @ B).T @ rows, "B": s * g.T @ (rows @ A.T)}
    return {**by_letter, "C": by_letter["A"] if layer.adapters["default"].side.word == "A" else by_letter["B"].T}


@METHODS_EACH
def test_an_output_may_be_changed_in_place(method):
    torch.manual_seed(0)
    model, layer = one_layer(nn.Linear(7, 5), method, merge_links=False)
    step(model)
    x = torch.randn(6, 7)
    out = model(x)
    out.add_(1.0).relu_()
    out.sum().backward()
    assert_near(out.detach(), (dense(layer, x) + 1.0).relu())
    assert all(p.grad is not None for p in layer.trained("default").values())


@METHODS_EACH
def test_a_forward_that_fails_leaves_the_weight_as_it_was(method):
    torch.manual_seed(0)
    model, layer = one_layer(nn.Linear(7, 5), method, merge_links=False)
    step(model)
    bits, x = layer.base_layer.weight.detach().clone(), torch.randn(6, 7)
    expected = model(x)
    for wrong in (torch.randn(6, 8), torch.randn(6, 6), torch.randint(0, 3, (6, 7))):
        with pytest.raises(RuntimeError):
            model(wrong)
        assert_same_bits(layer.base_layer.weight.detach(), bits, "weight")
    assert torch.equal(model(x), expected)


# -- around the layer ----------------------------------------------------------------------------------------


@METHODS_EACH
def test_hooks_on_the_base_layer_are_called(method):
    torch.manual_seed(0)
    model, layer = one_layer(nn.Linear(7, 5), method, merge_links=False)
    step(model)
    x, calls = torch.randn(6, 7), []
    handles = [
        layer.base_layer.register_forward_pre_hook(lambda *_: calls.append("pre")),
        layer.base_layer.register_forward_hook(lambda *_: calls.append("after")),
        layer.register_forward_hook(lambda *_: calls.append("layer")),
    ]
    assert_near(model(x).detach(), dense(layer, x))
    assert calls == ["pre", "after", "layer"]
    for handle in handles:
        handle.remove()
    handle = layer.base_layer.register_full_backward_hook(lambda *_: calls.append("backward"))
    model(x.requires_grad_()).sum().backward()
    assert calls[-1] == "backward"
    handle.remove()


@METHODS_EACH
def test_threads_compute_the_same(method):
    """A lent column must not be seen by another thread's product, nor by one that looks at the weight."""
    model = trained("gpt2", method)
    expected = logits(model)
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(lambda _: logits(model), range(24)))
    assert all(torch.equal(out, expected) for out in outputs)
    assert_base_is_original(model, "gpt2")


@METHODS_EACH
def test_dropout_acts_on_the_adapters_input_alone(method):
    torch.manual_seed(0)
    model, layer = one_layer(nn.Linear(7, 5), method, dropout=0.5, merge_links=False)
    fill(model)
    x = torch.randn(6, 7, requires_grad=True)
    assert_near(model(x).detach(), dense(layer, x))
    model.train()
    torch.manual_seed(1)
    out = model(x)
    torch.manual_seed(1)
    dropped = nn.functional.dropout(x.detach(), 0.5)
    base_part = layer.base_layer(x.detach()).double()
    assert_near(out.detach(), base_part + dense(layer, dropped) - layer.base_layer(dropped).double())
    out.sum().backward()
    assert not torch.equal(out, model(x)), "another mask at each pass"
    merged = copy.deepcopy(model)
    merged.merge_adapter()
    assert torch.equal(merged(x), merged(x)), "a merged adapter has no dropout"
