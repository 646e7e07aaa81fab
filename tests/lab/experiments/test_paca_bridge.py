"""PaCA and cLA: the batched paths against one network at a time, written with whole weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lopsided.lab import Request, verdict
from lopsided.lab.experiments import paca_bridge as bridge
from lopsided.lab.experiments.paca_bridge import (
    EXPERIMENT,
    RANK,
    RATE,
    SCALE,
    STEPS,
    apart,
    path,
    problem,
    start,
    weight,
)


def whole_weights(seed: int, seeds: int, decay: float) -> np.ndarray:
    """PaCA's path of one seed: Adam by hand on P = W[:, c]/s, with the gradient of whole weights."""
    weights, columns, x, y = problem(seeds, torch.float64)
    layers = [W[seed].clone() for W in weights]
    chosen = [c[seed] for c in columns]
    first = [torch.zeros(W.shape[0], RANK, dtype=W.dtype) for W in layers]
    second = [torch.zeros_like(m) for m in first]
    found = [torch.cat([W.flatten() for W in layers]).numpy()]
    for t in range(1, STEPS + 1):
        live = [W.clone().requires_grad_() for W in layers]
        (torch.tanh(x[seed] @ live[0].T) @ live[1].T - y[seed]).square().mean().backward()
        for k, W in enumerate(layers):
            P, g = W[:, chosen[k]] / SCALE, SCALE * live[k].grad[:, chosen[k]]
            first[k], second[k] = 0.9 * first[k] + 0.1 * g, 0.999 * second[k] + 0.001 * g * g
            way = (first[k] / (1 - 0.9**t)) / ((second[k] / (1 - 0.999**t)).sqrt() + 1e-8)
            W[:, chosen[k]] = SCALE * (P * (1 - RATE * decay) - RATE * way)
        found.append(torch.cat([W.flatten() for W in layers]).numpy())
    return np.array(found)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_batched_path_is_adam_on_whole_weights(decay):
    batched = path("paca", decay=decay, dtype=torch.float64, seeds=2)
    for seed in (0, 1):
        np.testing.assert_allclose(batched[:, seed], whole_weights(seed, 2, decay), atol=1e-9)


def test_both_start_as_the_pretrained_weights():
    [W0, _], [columns, _], _, _ = problem(3, torch.float64)
    for kind in ("paca", "cla"):
        torch.testing.assert_close(weight(kind, W0, columns, start(kind, W0, columns)), W0)


@pytest.mark.parametrize("kind", ["paca", "cla"])
def test_only_the_chosen_columns_move(kind):
    weights, columns, _, _ = problem(2, torch.float64)
    moved = path(kind, decay=0.1, dtype=torch.float64, seeds=2)
    change = np.abs(moved[-1] - moved[0])[:, : weights[0][0].numel()].reshape(2, *weights[0].shape[1:])
    for seed in (0, 1):
        assert set(np.flatnonzero(change[seed].max(axis=0))) == set(columns[0][seed].tolist())


def test_decay_pulls_paca_to_zero_and_cla_to_the_start(monkeypatch):
    """With decay so strong that it wins, the chosen columns end at 0 under PaCA and at W0 under cLA."""
    monkeypatch.setattr(bridge, "RATE", 1e-3)
    weights, columns, _, _ = problem(1, torch.float64)
    ends = {kind: path(kind, decay=900.0, dtype=torch.float64, seeds=1)[-1, 0] for kind in ("paca", "cla")}
    [W0, _], count = weights, weights[0].numel()
    inside = W0[0][:, columns[0][0]]
    for kind, end in (("paca", 0.0 * inside), ("cla", inside)):
        found = torch.tensor(ends[kind][:count]).reshape(W0[0].shape)[:, columns[0][0]]
        assert (found - end).abs().max() < 0.02


def test_apart_is_a_share_of_the_way():
    cla = np.zeros((3, 1, 2))
    cla[-1, 0] = [0.0, 4.0]
    paca = cla.copy()
    paca[1, 0, 0] = -2.0
    assert apart(paca, cla).tolist() == [[0.0], [0.5], [0.0]]


def test_the_experiment_on_few_seeds():
    outcome = bridge.run(Request(seeds=3))
    assert verdict(EXPERIMENT, outcome) == "reproduced"
    assert len(outcome.plots[0].lines) == 4
