"""The papers' identities, each against the formula written out plainly."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import lopsided
from lopsided import METHODS, Window
from lopsided.tuner import layers_of
from tests import tiny


class PlainPaCA(nn.Module):
    """PaCA as Woo et al. 2025 write it: r columns of W are s·P, P starts at W[:, c]/s, the rest is frozen."""

    def __init__(self, linear: nn.Linear, columns: torch.Tensor, scaling: float) -> None:
        super().__init__()
        self.frozen, self.bias, self.columns, self.scaling = (
            linear.weight.detach().clone(),
            linear.bias.detach().clone(),
            columns,
            scaling,
        )
        self.P = nn.Parameter(self.frozen[:, columns] / scaling)

    def forward(self, x):
        W = self.frozen.clone()
        W[:, self.columns] = self.scaling * self.P
        return x @ W.T + self.bias


def test_paca_is_cla_on_the_same_columns_for_100_adamw_steps():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 4))
    x, y = torch.randn(32, 12), torch.randn(32, 4)
    ours = lopsided.adapt(copy.deepcopy(base), "paca", r=3, alpha=6, target_modules="all-linear", seed=4)
    plain = nn.Sequential()
    for (_, layer), linear in zip(layers_of(ours).items(), (base[0], base[2])):
        columns = layer.adapters["default"].sketches[0].factor.indices
        plain.append(PlainPaCA(linear, columns, scaling=2.0))
        plain.append(nn.Tanh() if linear is base[0] else nn.Identity())

    def step(model, optimizer):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()

    first = torch.optim.AdamW(lopsided.param_groups(ours, lr=3e-3), weight_decay=0.0)
    second = torch.optim.AdamW(plain.parameters(), lr=3e-3, weight_decay=0.0)
    start = (ours(x) - y).square().mean().item()
    for _ in range(100):
        step(ours, first)
        step(plain, second)
        torch.testing.assert_close(ours(x), plain(x), atol=1e-6, rtol=1e-6)
    assert (ours(x) - y).square().mean().item() < 0.8 * start


@pytest.mark.parametrize("name", ["rac_b", "rac_a"])
def test_racs_exact_step_is_a_projected_gradient_step(name):
    """Train one factor by Â = −η(BᵀB)⁺Bᵀ∇f (or its mirror), advance, and W has moved by −γ·H·∇f(W)."""
    torch.manual_seed(0)
    linear = nn.Linear(7, 5, bias=False)
    W, gamma = linear.weight.detach().clone(), 0.3
    model = lopsided.adapt(nn.Sequential(linear), name, r=2, alpha=2, target_modules="all-linear", links=2)
    [layer] = layers_of(model).values()
    x, target = torch.randn(20, 7), torch.randn(20, 5)
    gradient = torch.autograd.functional.jacobian(lambda w: 0.5 * (x @ w.T - target).square().sum(), W)

    S = layer.adapters["default"].sketches[0].matrix().double()
    [factor] = layer.trained("default").values()
    with torch.no_grad():
        if name == "rac_b":
            H = S.T @ torch.linalg.pinv(S @ S.T) @ S
            factor.copy_(-gamma * gradient.double() @ S.T @ torch.linalg.pinv(S @ S.T))
            expected = W.double() - gamma * gradient.double() @ H
        else:
            B = S.T
            H = B @ torch.linalg.pinv(B.T @ B) @ B.T
            factor.copy_(-gamma * torch.linalg.pinv(B.T @ B) @ B.T @ gradient.double())
            expected = W.double() - gamma * H @ gradient.double()
    lopsided.advance_chain(model)
    torch.testing.assert_close(layer.base_layer.weight.double(), expected, atol=1e-5, rtol=1e-5)
    # H is an orthogonal projection of rank r, so plain gradient descent at step 1/L stays stable.
    torch.testing.assert_close(H @ H, H, atol=1e-6, rtol=0)
    assert torch.trace(H).item() == pytest.approx(2.0, abs=1e-5)


def test_one_gradient_step_of_rac_b_is_the_exact_step():
    """With orthonormal rows and s = 1, one plain gradient step on B from zero is the exact step."""
    torch.manual_seed(0)
    linear = nn.Linear(7, 5, bias=False)
    W = linear.weight.detach().clone()
    model = lopsided.adapt(nn.Sequential(linear), "rac_b", r=2, alpha=2, target_modules="all-linear", links=2)
    [layer] = layers_of(model).values()
    x, target, gamma = torch.randn(20, 7), torch.randn(20, 5), 0.01
    (0.5 * (model(x) - target).square().sum()).backward()
    torch.optim.SGD(model.parameters(), lr=gamma).step()
    gradient = torch.autograd.functional.jacobian(lambda w: 0.5 * (x @ w.T - target).square().sum(), W)
    S = layer.adapters["default"].sketches[0].matrix()
    lopsided.advance_chain(model)
    torch.testing.assert_close(layer.base_layer.weight, W - gamma * gradient @ S.T @ S, atol=1e-5, rtol=1e-5)


def test_rac_b_is_not_cola():
    """RAC trains one factor of each link, COLA both: the row space of RAC's ΔW is its sketch's."""
    row_spaces = {}
    for name in ("rac_b", "cola"):
        model = lopsided.adapt(tiny.bert(), name, r=2, target_modules=["query"], links=3)
        optimizer = tiny.train_a_little(model, steps=5)
        layer = next(iter(layers_of(model).values()))
        S = layer.adapters["default"].sketches[0].matrix()
        delta = layer.get_delta_weight("default")
        # The part of ΔW outside the sketch's rows.
        outside = delta - delta @ torch.linalg.pinv(S) @ S
        row_spaces[name] = float(outside.norm() / delta.norm())
        assert lopsided.advance_chain(model, optimizer) == 1
    assert row_spaces["rac_b"] < 1e-5
    assert row_spaces["cola"] > 1e-2


@pytest.mark.parametrize(("d", "r"), [(12, 3), (13, 4), (10, 7), (5, 5), (9, 1)])
@pytest.mark.parametrize("name", ["c3la", "rc3la"])
def test_chained_windows_cover_every_column_in_one_sweep(name, d, r):
    links = math.ceil(d / r)
    sketch = METHODS[name].sketch
    seen = {int(c) for link in range(links) for c in sketch.indices(r, d, seed=11, link=link)}
    assert seen == set(range(d))
    fewer = {int(c) for link in range(links - 1) for c in sketch.indices(r, d, seed=11, link=link)}
    assert fewer != set(range(d))


@pytest.mark.parametrize("name", [n for n in tiny.ADAPTERS if METHODS[n].train == "B"])
def test_b_only_trains_the_sum_of_d_out_times_r(name):
    model = lopsided.adapt(tiny.llama(), name, r=3, target_modules="all-linear")
    expected = sum(layer.out_features * 3 for layer in layers_of(model).values())
    assert model.get_nb_trainable_parameters()[0] == expected
    lora = lopsided.adapt(tiny.llama(), "lora", r=3, target_modules="all-linear")
    both = sum((layer.out_features + layer.in_features) * 3 for layer in layers_of(lora).values())
    assert lora.get_nb_trainable_parameters()[0] == both


def test_asym_a_freezes_b_and_asym_b_freezes_a():
    for name, letter in (("asym_b", "B"), ("asym_a", "A")):
        model = lopsided.adapt(tiny.bert(), name, r=2, target_modules=["query"])
        assert {tuple(layer.trained("default")) for layer in layers_of(model).values()} == {(letter,)}


def test_lora_plus_is_a_ratio_not_two_rates():
    model = lopsided.adapt(tiny.bert(), "lora_plus", r=2, target_modules=["query"])
    rates = {id(p): g["lr"] for g in lopsided.param_groups(model, lr=1e-3) for p in g["params"]}
    for layer in layers_of(model).values():
        A, B = rates[id(layer.lopsided_A["default"].weight)], rates[id(layer.lopsided_B["default"].weight)]
        assert pytest.approx((1e-3, 16e-3)) == (A, B)


def test_cla_reads_the_first_r_columns():
    assert np.array_equal(METHODS["cla"].sketch.sample(3, 7, seed=9, link=0), np.eye(3, 7))
    assert METHODS["cla"].sketch == Window("fixed")
