"""Products next to 16-bit weights: how far from the exact ones, next to stock PEFT with 16-bit factors."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import peft
import pytest
import torch
from torch import nn

import lopsided
from lopsided import METHODS, LopsidedError
from lopsided.tuner.forward.beside import beside
from lopsided.tuner.forward.compute import Term
from tests import tiny
from tests.behave.layer import one_layer
from tests.tuner.forward.test_ways import KINDS, make

HALVES = (torch.bfloat16, torch.float16)
ROWS, D_IN, D_OUT, R = 192, 96, 64, 8


def learned(method: str, dtype: torch.dtype, size: float, **options):
    """A layer in training with factors that have learned, and what it computes with: (W0, A, B, s) in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(D_IN, D_OUT, bias=False).to(dtype)
        model, layer = one_layer(linear, method, r=R, **options)
        for factor in layer.trained("default").values():
            factor.data.copy_(torch.randn_like(factor) * size)
    [term] = layer.terms("default", torch.device("cpu"))
    A, B = (factor.detach().double() for factor in term.dense())
    return model.train(), layer, (linear.weight.detach().double(), A, B, layer.scaling["default"])


def errors(out, gradients, exact) -> dict[str, float]:
    return {
        name: float((got.detach().double() - right).norm() / right.norm())
        for name, got, right in zip(("y", "x", "A", "B"), (out, *gradients), exact)
        if got is not None
    }


def both_ways(method: str, dtype: torch.dtype, size: float, scale: float):
    """The errors of a layer's output and gradients, relative to the exact ones' norms: ours and stock PEFT's."""
    _, layer, (W, A, B, s) = learned(method, dtype, size)
    g = torch.Generator().manual_seed(1)
    x, slope = (torch.randn(ROWS, d, generator=g).to(dtype) * scale for d in (D_IN, D_OUT))
    x, slope = x.to(dtype), slope.to(dtype)
    X, G = x.double(), slope.double()
    exact = (X @ W.T + s * X @ A.T @ B.T, G @ W + s * G @ B @ A, s * B.T @ G.T @ X, s * G.T @ X @ A.T)

    x.requires_grad_()
    out = layer(x)
    trained = layer.trained("default")
    gx, *found = torch.autograd.grad(out, [x, *trained.values()], slope)
    gradients = dict(zip(trained, found))
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    ours = errors(out, (gx, gradients.get("A"), gradients.get("B")), exact)

    stock = peft.get_peft_model(
        nn.Sequential(copy.deepcopy(layer.base_layer)),
        peft.LoraConfig(r=R, lora_alpha=s * R, target_modules=["0"]),
        autocast_adapter_dtype=False,
    )
    lora_A, lora_B = (
        stock.base_model.model[0].lora_A["default"].weight,
        stock.base_model.model[0].lora_B["default"].weight,
    )
    assert lora_A.dtype == dtype
    lora_A.data.copy_(A)
    lora_B.data.copy_(B)
    out = stock(x)
    theirs = errors(out, torch.autograd.grad(out, [x, lora_A, lora_B], slope), exact)
    return ours, theirs


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("method", ["cla", "rcla", "asym_b", "asym_a", "lora", "bernoulli"])
def test_no_further_from_the_exact_products_than_peft_with_16_bit_factors(method, size, scale, dtype):
    ours, theirs = both_ways(method, dtype, size, scale)
    for name, error in ours.items():
        # Where rounding W's own product is all there is, the two are equal but for chance.
        assert error <= 1.02 * theirs[name], (name, error, theirs[name])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", ["cla", "rcla", "asym_b", "lora"])
def test_an_update_far_below_the_weights_rounding_is_computed(method, dtype):
    _, layer, _ = learned(method, dtype, 0.0)
    W = layer.base_layer.weight
    W.data = W.sign() * (1.0 + W.abs())
    with torch.no_grad():
        layer.trained("default")["B"].normal_(std=0.03 * float(torch.finfo(dtype).eps))
        if method == "lora":
            layer.trained("default")["A"].normal_(std=0.3)
    [term], s = layer.terms("default", torch.device("cpu")), layer.scaling["default"]
    A, B = (factor.detach().double() for factor in term.dense())
    assert torch.equal((W.double() + s * B @ A).to(dtype), W), "W0 + s·B·A would be W0"
    x = torch.randn(4096, D_IN, generator=torch.Generator().manual_seed(1)).to(dtype)
    moved = layer(x).detach().double() - layer.base_layer(x).detach().double()
    expected = s * x.double() @ A.T @ B.T
    # Of a single output it is not to be seen; over all of them, rounding is as often up as down.
    assert float((moved * expected).sum() / expected.square().sum()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", ["cla", "asym_b", "lora"])
def test_float32_is_asked_for_by_name(method, dtype):
    _, layer, (W, A, B, s) = learned(method, dtype, 0.3, precision="float32")
    _, narrow, _ = learned(method, dtype, 0.3)
    x = torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(1)).to(dtype)
    added = (s * x.double() @ A.T @ B.T).to(dtype)
    base = layer.base_layer(x)
    # The sum of two numbers that are rounded once each.
    torch.testing.assert_close(layer(x), base + added, rtol=0, atol=4 * float(torch.finfo(dtype).eps))
    exact = x.double() @ W.T + added.double()
    assert float((layer(x).double() - exact).norm()) < float((narrow(x).double() - exact).norm())


def test_a_precision_that_is_none_is_refused():
    with pytest.raises(LopsidedError, match="precision must be one of base, float32, got 'bf16'"):
        lopsided.LopsidedConfig(precision="bf16")


@pytest.mark.parametrize("kind", KINDS)
def test_past_links_are_computed_in_the_same_operation(kind):
    for seed in range(4):
        term, weight, bias = make(kind, 6, 5, 2, seed)
        past = [make(other, 6, 5, 3, seed + 7)[0] for other in KINDS]
        past = [Term(*(f.detach() if isinstance(f, torch.Tensor) else f for f in (t.A, t.B))) for t in past]
        x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        wanted = [x, *(f for f in (term.A, term.B) if isinstance(f, torch.Tensor) and f.requires_grad)]
        total = sum(B @ A for A, B in (t.dense() for t in (*past, term)))
        expected = nn.functional.linear(x, weight + 0.7 * total, bias)
        out = beside(x, weight, bias, term, 0.7, past=past)
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
        for create_graph in (False, True):
            got = torch.autograd.grad((out**3).sum(), wanted, retain_graph=True, create_graph=create_graph)
            right = torch.autograd.grad((expected**3).sum(), wanted, retain_graph=True, create_graph=create_graph)
            for one, other in zip(got, right, strict=True):
                torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", [name for name in tiny.ADAPTERS if METHODS[name].chain])
def test_a_chain_next_to_16_bit_weights_is_that_of_float32_but_for_rounding(method, dtype):
    outputs = {}
    for precision in ("base", "float32"):
        model, layer, _ = learned(method, dtype, 0.05, precision=precision)
        for seed in (1, 2):
            lopsided.advance_chain(model)
            for factor in layer.trained("default").values():
                factor.data.add_(torch.randn(factor.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.05)
        x = torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(1)).to(dtype)
        outputs[precision] = model(x).detach().double()
    apart = float((outputs["base"] - outputs["float32"]).norm() / outputs["float32"].norm())
    assert 0 < apart < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("method", ["cla", "asym_b", "lora"])
def test_second_derivatives_are_those_of_float32_but_for_rounding(method):
    products = []
    for precision in ("base", "float32"):
        _, layer, _ = learned(method, torch.bfloat16, 0.1, precision=precision)
        x = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
        factors = list(layer.trained("default").values())
        first = torch.autograd.grad(layer(x).float().pow(2).mean(), factors, create_graph=True)
        products.append(torch.cat([p.flatten() for p in torch.autograd.grad(sum(f.sum() for f in first), factors)]))
    assert products[0].dtype == torch.float32
    assert float((products[0] - products[1]).norm() / products[1].norm()) < 0.02


def final_loss(method: str, precision: str, seed: int) -> tuple[float, float]:
    """The loss before and after 300 steps in bfloat16, towards a network whose weights are moved at random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(24, 48), nn.Tanh(), nn.Linear(48, 16)).bfloat16()
        goal = copy.deepcopy(network)
        for layer in (goal[0], goal[2]):
            layer.weight.data += 0.1 * torch.randn_like(layer.weight)
        model = lopsided.adapt(network, method, r=8, target_modules=["0", "2"], seed=seed, precision=precision).train()
        optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2), weight_decay=0.0)
        losses = []
        for _ in range(300):
            x = torch.randn(32, 24).bfloat16()
            loss = (model(x) - goal(x).detach()).float().square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses[0], sum(losses[-20:]) / 20


# A sketch that selects columns, and none; the other two are of the first one's kind and a dense one.
@pytest.mark.parametrize(
    "method", ["rcla", "lora", *(pytest.param(name, marks=pytest.mark.more) for name in ("cla", "asym_b"))]
)
def test_300_steps_end_where_those_with_float32_products_end(method):
    base, wide = ([final_loss(method, precision, seed) for seed in range(3)] for precision in ("base", "float32"))
    start, narrow_end, wide_end = (
        torch.tensor([run[i] for run in runs]) for runs, i in ((wide, 0), (base, 1), (wide, 1))
    )
    assert (wide_end < 0.8 * start).all(), "nothing was learned"
    assert float((narrow_end - wide_end).mean().abs()) < float(wide_end.std()), "seeds differ by less than precisions"


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
@pytest.mark.parametrize("how", ["no_grad", "frozen", "frozen but x", "autocast"])
@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_factors_that_do_not_train_compute_what_they_computed(method, how, dtype):
    """As an adapter that is loaded for inference: nothing in it requires a gradient."""
    if how == "autocast" and dtype != torch.float32:
        pytest.skip("autocast is for float32 weights")
    _, layer, _ = learned(method, dtype, 0.1)
    x = torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(1)).to(dtype)
    contexts = {"autocast": torch.autocast("cpu", dtype=torch.bfloat16), "no_grad": torch.no_grad()}
    with contexts.get(how, nullcontext()):
        expected = layer.eval()(x).detach()
        for factor in layer.trained("default").values():
            factor.requires_grad_(False)
        if how == "frozen but x":
            x.requires_grad_()
        out = layer(x)
    assert out.dtype == expected.dtype
    torch.testing.assert_close(out.detach(), expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
    if how == "frozen but x":
        [gradient] = torch.autograd.grad(out.square().sum(), x)
        assert gradient.isfinite().all()
        assert gradient.any()
