"""What a layer computes and keeps, against oracles, over what users do with a model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import lopsided
from lopsided import METHODS, LopsidedConfig, LopsidedError
from lopsided.testing import adapted, network
from lopsided.tuner import layers_of
from lopsided.tuner.forward.compute import Selected, Term, add_term, concatenate
from lopsided.tuner.weight.delta import delta_weight
from tests import tiny


def factors(kind: str, r: int = 3, d_out: int = 5, d_in: int = 7) -> Term:
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(r, d_in, generator=generator), torch.randn(d_out, r, generator=generator)
    if kind == "reads":
        return Term(Selected(torch.tensor([6, 0, 2]), d_in), B)
    if kind == "writes":
        return Term(A, Selected(torch.tensor([4, 1, 0]), d_out))
    if kind == "both":
        return Term(Selected(torch.tensor([6, 0, 2]), d_in), Selected(torch.tensor([4, 1, 0]), d_out))
    return Term(A, B)


KINDS = ("dense", "reads", "writes", "both")


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_agrees_with_the_dense_oracle(kind):
    term, x, out = factors(kind), torch.randn(2, 4, 7), torch.randn(2, 4, 5)
    A, B = term.dense()
    oracle = out.double() + 0.7 * x.double() @ A.double().T @ B.double().T
    torch.testing.assert_close(add_term(out, x, term, 0.7).double(), oracle, atol=1e-5, rtol=1e-5)
    delta = delta_weight([term, term], 0.7, torch.device("cpu"))
    torch.testing.assert_close(delta.double(), 1.4 * B.double() @ A.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "reads", "writes"])
def test_gradients_and_second_derivatives(kind):
    term = factors(kind)
    trained = term.B if kind == "reads" else term.A
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    factor = trained.double().requires_grad_()

    def function(x, factor):
        other = term.B if kind != "reads" else term.A
        other = other.double() if isinstance(other, torch.Tensor) else other
        now = Term(other, factor) if kind == "reads" else Term(factor, other)
        return add_term(torch.zeros(3, 5, dtype=torch.float64), x, now, 0.7)

    assert torch.autograd.gradcheck(function, (x, factor))
    assert torch.autograd.gradgradcheck(function, (x, factor))


def test_concatenation_keeps_the_sum_whatever_the_kinds():
    terms = [factors(kind) for kind in (*KINDS, "reads", "dense")]
    joined = concatenate(terms)
    assert len(joined) == 4
    total = sum(B @ A for A, B in (term.dense() for term in terms))
    torch.testing.assert_close(sum(B @ A for A, B in (term.dense() for term in joined)), total, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_a_copied_and_a_pickled_model_compute_the_same(name):
    base, x = network()
    model = adapted(METHODS[name], base)
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    model(x).square().sum().backward()
    optimizer.step()
    if METHODS[name].chain:
        lopsided.advance_chain(model, optimizer)
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), expected)
        with torch.no_grad():
            next(p for p in twin.parameters() if p.requires_grad).add_(1.0)
    assert torch.equal(model(x), expected)


def test_several_adapters_on_one_model():
    base, x = network()
    original = copy.deepcopy(base.state_dict())
    model = adapted(METHODS["rac_b"], base)
    config = {"r": 2, "target_modules": ["first", "second"], "modules_to_save": ["head"]}
    model.add_adapter("other", LopsidedConfig(method="c3la", links=5, seed=7, **config))
    outputs = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
            lopsided.advance_chain(model, optimizer)
        outputs[name] = model(x)
    # Each adapter's past links are in the base only while it is active.
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        torch.testing.assert_close(model(x), outputs[name], atol=1e-6, rtol=0)
    with model.disable_adapter():
        weight = layers_of(model)["base_model.model.first"].base_layer.weight
        assert torch.equal(weight, original["first.weight"])
    model.delete_adapter("default")
    assert model.active_adapters == ["other"]
    torch.testing.assert_close(model(x), outputs["other"], atol=1e-6, rtol=0)
    model.delete_adapter("other")
    assert torch.equal(layers_of(model)["base_model.model.first"].base_layer.weight, original["first.weight"])


def test_two_active_adapters_add_up():
    base, _ = network()
    model = lopsided.adapt(base, "cla", r=2, target_modules=["first"])
    model.add_adapter("other", LopsidedConfig(method="asym_a", r=2, target_modules=["first"]))
    [layer] = layers_of(model).values()
    with torch.no_grad():
        layer.lopsided_B["default"].weight.normal_()
        layer.lopsided_A["other"].weight.normal_()
    model.base_model.set_adapter(["default", "other"])
    both = sum(layer.get_delta_weight(name) for name in ("default", "other"))
    y = torch.randn(4, 7)
    torch.testing.assert_close(layer(y), y @ (layer.base_layer.weight + both).T + layer.base_layer.bias)


@pytest.mark.parametrize("name", ["c3la", "rac_a", "cola", "lora"])
def test_merge_and_unload_gives_a_plain_model(name):
    base, x = network()
    model = adapted(METHODS[name], base)
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    model(x).square().sum().backward()
    optimizer.step()
    if METHODS[name].chain:
        lopsided.advance_chain(model, optimizer)
        model(x).square().sum().backward()
        optimizer.step()
    expected = model(x)
    merged = model.merge_and_unload(safe_merge=True)
    assert not layers_of(merged)
    torch.testing.assert_close(merged(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("safe", [True, False])
def test_a_merge_refuses_nan_and_leaves_the_weight(safe):
    base, _ = network()
    weight = base.first.weight.detach().clone()
    model = adapted(METHODS["cla"], base)
    layers_of(model)["base_model.model.first"].lopsided_B["default"].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="first: NaNs detected"):
        model.merge_adapter(safe_merge=safe)
    assert torch.equal(layers_of(model)["base_model.model.first"].base_layer.weight, weight)


def test_a_safe_merge_refuses_a_sum_that_overflows_although_its_parts_are_finite():
    base = torch.nn.Sequential(torch.nn.Linear(6, 4)).half()
    base[0].weight.data.fill_(60000.0)
    model = lopsided.adapt(base, "cla", r=2, alpha=2, target_modules="all-linear")
    [layer] = layers_of(model).values()
    layer.lopsided_B["default"].weight.data.fill_(10000.0)
    before = layer.base_layer.weight.clone()
    with pytest.raises(ValueError, match=r"8 entries of W0 \+ ΔW overflow torch.float16, so nothing is merged"):
        model.merge_adapter(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, before)
    assert not layer.merged
    model.merge_adapter()
    assert torch.isinf(layer.base_layer.weight).sum() == 8
    model.unmerge_adapter()
    assert torch.equal(layer.base_layer.weight, before)


@pytest.mark.parametrize("name", ["c3la", "rac_b", "rac_a", "lora"])
def test_gradient_checkpointing_gives_equal_gradients(name):
    gradients = []
    for checkpointed in (None, True, False):
        model = lopsided.adapt(tiny.bert(), name, r=2, target_modules="all-linear").train()
        # The same dropout in every run: checkpointing draws it again from the saved random state.
        torch.manual_seed(0)
        if checkpointed is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpointed})
            model.enable_input_require_grads()
        model(**tiny.inputs(model)).logits.square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["cla", "asym_b", "asym_a", "lora"])
def test_autocast_is_close_to_float32_and_trains(name, dtype):
    model = lopsided.adapt(tiny.bert(), name, r=2, target_modules="all-linear")
    tiny.train_a_little(model)
    expected = tiny.logits(model)
    with torch.autocast("cpu", dtype=dtype):
        out = model(**tiny.inputs(model)).logits
        out.float().square().mean().backward()
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in trained)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_16_bit_base_trains_float32_factors_with_the_float32_sketch(dtype):
    model = lopsided.adapt(tiny.bert().to(dtype), "asym_b", r=2, target_modules=["query"])
    layer = next(iter(layers_of(model).values()))
    assert layer.lopsided_B["default"].weight.dtype == torch.float32
    same = next(iter(layers_of(lopsided.adapt(tiny.bert(), "asym_b", r=2, target_modules=["query"])).values()))
    assert torch.equal(layer.frozen["default"].sketch, same.frozen["default"].sketch)


def test_casting_a_chained_model_takes_its_links_out_and_stacks_them():
    model = lopsided.adapt(tiny.bert(), "rac_b", r=2, target_modules="all-linear", links=3)
    optimizer = tiny.train_a_little(model)
    lopsided.advance_chain(model, optimizer)
    expected, plain = tiny.logits(model), tiny.bert().to(torch.bfloat16)
    model.to(torch.bfloat16)
    for name, layer in layers_of(model).items():
        weight = plain.get_submodule(name.removeprefix("base_model.model.")).weight
        assert torch.equal(layer.base_layer.weight, weight)
    torch.testing.assert_close(tiny.logits(model).float(), expected, atol=0.05, rtol=0.05)
    model.to(torch.float32)
    torch.testing.assert_close(tiny.logits(model), expected, atol=0.05, rtol=0.05)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(self.embed(ids))


def test_a_tied_weight_is_never_written():
    torch.manual_seed(0)
    base, ids = Tied(), torch.arange(9)
    original = base.embed.weight.detach().clone()
    model = lopsided.adapt(base, "c3la", r=2, target_modules=["out"], links=3)
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    for _ in range(2):
        model(ids).square().sum().backward()
        optimizer.step()
        before = model(ids)
        lopsided.advance_chain(model, optimizer)
        torch.testing.assert_close(model(ids), before, atol=1e-5, rtol=0)
    assert torch.equal(base.embed.weight, original)
    with pytest.raises(LopsidedError, match="shares its weight"):
        model.merge_adapter()


def test_a_reference_forward_between_forward_and_backward():
    """DPO's pattern: the policy's forward, the reference under disable_adapter, then the policy's backward."""
    gradients = []
    for with_reference in (False, True):
        model = lopsided.adapt(tiny.bert(), "rac_b", r=2, target_modules="all-linear", links=3)
        optimizer = tiny.train_a_little(model)
        lopsided.advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 1)
        optimizer.zero_grad()
        policy = model(**tiny.inputs(model)).logits
        if with_reference:
            with torch.no_grad(), model.disable_adapter():
                model(**tiny.inputs(model))
        policy.square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))
