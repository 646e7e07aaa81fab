"""Products with the Hessian and its top eigenvalue, in closed form and of tiny adapters against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lopsided
from lopsided import LopsidedError
from lopsided.curvature.batches import loss_and_gradient
from lopsided.curvature.hessian import hessian_product, hessian_top
from tests import tiny
from tests.curvature.quadratic import LABELS, Quadratic, batch_of, loss, spd


def test_a_quadratics_top_eigenvalue():
    H = spd(12)
    found = hessian_top(Quadratic(torch.ones(3, 4), H), LABELS, steps=12, tolerance=1e-6, loss=loss)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-4)
    true = float((H @ found.vector - found.value * found.vector).norm())
    assert true == pytest.approx(found.residual, abs=1e-4 * found.value)


def differences(model, parameters, batches, vector, step: float) -> torch.Tensor:
    """H·q from gradients on both sides of the weights."""
    found = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for p, part in zip(parameters, vector.split([p.numel() for p in parameters])):
                p.add_(part.view_as(p), alpha=sign * step)
        found.append(torch.cat([g.reshape(-1) for g in loss_and_gradient(model, parameters, batches)[1]]))
        with torch.no_grad():
            for p, part in zip(parameters, vector.split([p.numel() for p in parameters])):
                p.add_(part.view_as(p), alpha=-sign * step)
    return (found[0] - found[1]) / (2 * step)


@pytest.mark.parametrize("method", ["lora", "cla", "rcla", "asym_a", "c3la"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_adapters_hessian_product_against_differences_of_gradients(method, attention):
    model = tiny.bert()
    model.set_attn_implementation(attention)
    model = lopsided.adapt(model, method, r=2, target_modules="all-linear").eval()
    tiny.train_a_little(model)
    if method == "c3la":
        lopsided.advance_chain(model)
        tiny.train_a_little(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0))
    vector /= vector.norm()
    batches = batch_of(model)
    exact = hessian_product(model, parameters, batches, vector)
    assert float((exact - differences(model, parameters, batches, vector, 1e-2)).norm()) < 2e-2 * float(exact.norm())
    assert float(exact.norm()) > 1e-4


def test_an_adapters_top_eigenvalue_is_that_of_its_whole_hessian():
    model = lopsided.adapt(tiny.bert(), "cla", r=1, target_modules=["query", "value"]).train()
    tiny.train_a_little(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    size, batches = sum(p.numel() for p in parameters), batch_of(model)
    found = hessian_top(model, batches, steps=60, tolerance=1e-5)
    model.eval()
    H = torch.stack([hessian_product(model, parameters, batches, row) for row in torch.eye(size)])
    assert torch.allclose(H, H.T, atol=1e-5)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-3)
    assert found.residual <= 1e-4 * found.value


def test_the_top_is_that_of_the_mean_over_rows_and_leaves_the_model_as_it_was():
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules="all-linear").train()
    tiny.train_a_little(model)
    model.zero_grad()
    [whole] = batch_of(model)
    parts = [{name: tensor[:1] for name, tensor in whole.items()}, {name: tensor[1:] for name, tensor in whole.items()}]
    both = [hessian_top(model, batches, steps=10) for batches in ([whole], parts)]
    assert both[0].value == pytest.approx(both[1].value, rel=1e-4)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if "lopsided" in n or "modules_to_save" in n
    }


def test_parameters_that_the_loss_does_not_read_add_nothing():
    model = Quadratic(torch.ones(3, 4), spd(12))
    model.other = nn.Parameter(torch.ones(5))
    found = hessian_top(model, LABELS, steps=17, tolerance=1e-6, loss=loss)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(model.H)[-1]), rel=1e-4)
    assert float(found.vector[12:].abs().max()) < 1e-3


def test_a_model_without_gradients_is_refused():
    model = tiny.bert().requires_grad_(False)
    with pytest.raises(LopsidedError, match=r"got none with a gradient; load the run with reload"):
        hessian_top(model, batch_of(model))
