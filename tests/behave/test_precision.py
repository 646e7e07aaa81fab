"""Autocast, second derivatives, and transforms of functions."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

import lopsided
from lopsided import METHODS
from tests import tiny
from tests.behave.cases import (
    assert_base_is_original,
    assert_near,
    everywhere,
    logits,
    oracle,
    oracle_gradients,
    trained,
    trained_tensors,
)

HALVES = (torch.bfloat16, torch.float16)


@everywhere()
def test_autocast_is_close_to_the_oracle_and_gradients_are_float32(arch, method):
    model = trained(arch, method)
    expected, slopes = oracle(arch, model, ["default"]), oracle_gradients(arch, model)
    for dtype in HALVES:
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            out = model(**tiny.inputs(model)).logits
        assert_near(out.detach(), expected, share=0.06)
        out.float().square().mean().backward()
        for name, parameter in trained_tensors(model).items():
            assert parameter.grad.dtype == torch.float32, name
            assert torch.isfinite(parameter.grad).all(), name
        assert_similar(model, slopes, 0.06)
    # The base weight is what it was: nothing of the 16-bit product stays.
    assert_base_is_original(model, arch)


def assert_similar(model, slopes, share: float) -> None:
    gradients = {name: p.grad.double() for name, p in trained_tensors(model).items()}
    assert gradients.keys() == slopes.keys()
    error = sum((gradients[name] - slope).square().sum() for name, slope in slopes.items()).sqrt()
    whole = sum(slope.square().sum() for slope in slopes.values()).sqrt()
    assert error <= share * whole, f"gradients are {float(error / whole):.1%} off"


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_an_advance_and_a_merge_do_not_take_autocasts_precision(method, dtype):
    model, twin = trained("gpt2", method), trained("gpt2", method)
    with torch.autocast("cpu", dtype=dtype):
        if METHODS[method].chain:
            lopsided.advance_chain(model)
        model.merge_adapter()
    if METHODS[method].chain:
        lopsided.advance_chain(twin)
    twin.merge_adapter()
    assert torch.equal(logits(model), logits(twin))


# -- second derivatives --------------------------------------------------------------------------------------


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def moved(model, direction: torch.Tensor, step: float) -> None:
    offset = 0
    with torch.no_grad():
        for parameter in trained_tensors(model).values():
            part = direction[offset : offset + parameter.numel()].view_as(parameter)
            parameter.add_(part, alpha=step)
            offset += parameter.numel()


def slope_by_differences(model, function, direction: torch.Tensor, h: float = 2e-2) -> torch.Tensor:
    """d function(θ + t·v)/dt at 0 by Richardson's extrapolation of central differences: an error of order h⁴."""

    def central(step: float) -> torch.Tensor:
        values = []
        for sign in (1, -1):
            moved(model, direction, sign * step)
            values.append(function().double())
            moved(model, direction, -sign * step)
        return (values[0] - values[1]) / (2 * step)

    return (4 * central(h / 2) - central(h)) / 3


@pytest.mark.parametrize("arch", ["mlp", "gpt2"])
@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_hessian_vector_products_agree_with_differences_of_gradients(arch, method):
    model = trained(arch, method)
    parameters, batch = list(trained_tensors(model).values()), tiny.inputs(model)
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(sum(p.numel() for p in parameters), generator=generator)
    direction /= direction.norm()

    def gradient(create_graph: bool = False) -> torch.Tensor:
        loss = model(**batch).logits.square().mean()
        return flat(torch.autograd.grad(loss, parameters, create_graph=create_graph))

    # Of attention's kernels only the plain one has a second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        product = flat(torch.autograd.grad(gradient(create_graph=True) @ direction, parameters))
        measured = slope_by_differences(model, gradient, direction)
    assert measured.abs().max() > 1e-4, "a Hessian of zeros would show nothing"
    assert_close_share(product, measured, 5e-3)


@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_a_gradient_penalty_trains(method):
    """The factor's gradient of the square of the input's gradient, as adversarial and score matching losses ask."""
    model = trained("mlp", method)
    parameters = list(trained_tensors(model).values())
    direction = torch.randn(sum(p.numel() for p in parameters), generator=torch.Generator().manual_seed(4))
    direction /= direction.norm()

    def penalty() -> torch.Tensor:
        x = tiny.inputs(model)["features"].requires_grad_()
        [slope] = torch.autograd.grad(model(x).logits.square().sum(), x, create_graph=True)
        return slope.square().sum()

    actual = flat(torch.autograd.grad(penalty(), parameters)) @ direction
    measured = slope_by_differences(model, lambda: penalty().detach(), direction)
    assert_close_share(actual, measured, 5e-3)


def assert_close_share(actual: torch.Tensor, expected: torch.Tensor, share: float) -> None:
    error = float((actual.double() - expected.double()).norm() / expected.double().norm())
    assert error <= share, f"{error:.2e} of the norm apart"


# -- transforms of functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_a_model_is_a_function_of_its_factors(method):
    model = trained("mlp", method)
    factors = {name: p.detach() for name, p in trained_tensors(model).items()}
    x = tiny.inputs(model)["features"]

    def loss(factors, x):
        return functional_call(model, factors, (x,)).logits.square().mean()

    expected = oracle_gradients("mlp", model)
    gradients = grad(loss)(factors, x)
    assert gradients.keys() == expected.keys()
    largest = max(float(slope.abs().max()) for slope in expected.values())
    for name, slope in expected.items():
        assert float((gradients[name] - slope).abs().max()) <= 1e-4 * largest, name
    # One gradient a row, and forward mode: both are linear in the same gradient.
    rows = vmap(grad(loss), in_dims=(None, 0))(factors, x[:, None])
    for name, slope in expected.items():
        assert float((rows[name].mean(0) - slope).abs().max()) <= 1e-4 * largest, name
    tangents = {name: torch.ones_like(p) for name, p in factors.items()}
    _, along = jvp(lambda f: loss(f, x), (factors,), (tangents,))
    assert_close_share(along, sum(slope.sum() for slope in expected.values()), 1e-3)


@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_an_ensemble_of_factors_runs_as_one(method):
    model = trained("mlp", method, heads=False)
    x = tiny.inputs(model)["features"]
    members = [{name: p.detach() * scale for name, p in trained_tensors(model).items()} for scale in (0.5, 1.0, 2.0)]
    stacked = {name: torch.stack([member[name] for member in members]) for name in members[0]}
    together = vmap(lambda f: functional_call(model, f, (x,)).logits)(stacked)
    for member, out in zip(members, together):
        assert_near(out, functional_call(model, member, (x,)).logits.detach(), share=1e-5)
    assert_near(together[1].detach(), logits(model), share=1e-5)
