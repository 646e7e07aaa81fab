"""The worlds of the sup-gap experiments: their law, the projection, the ascent where the answer is known, the bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lopsided.lab import Request, slope, worst_gap
from lopsided.lab.experiments.concentration import EXPERIMENT as CONCENTRATION
from lopsided.lab.experiments.concentration import variation
from lopsided.lab.experiments.sample_complexity import EXPERIMENT as SAMPLE_COMPLEXITY
from lopsided.lab.experiments.sample_complexity import guide
from lopsided.theory import FrozenLayer, single_run_bound


def test_inputs_lie_on_the_sphere_and_one_label_in_ten_is_flipped():
    worlds = worst_gap.new_worlds(3)
    x, y = worst_gap.samples(worlds, 4000)
    torch.testing.assert_close(x.norm(dim=-1), torch.full((3, 1, 4000), 4.0))
    right = (torch.sign(worst_gap.outputs(x, worlds.teacher)) == y).double().mean()
    assert float(right) == pytest.approx(0.9, abs=0.02)


def test_the_network_is_two_layers_of_tanh_and_a_sum():
    worlds = worst_gap.new_worlds(2)
    x, _ = worst_gap.samples(worlds, 5)
    W1, W2, W3 = (W[1, 0].double().numpy() for W in worlds.W)
    by_hand = [W3 @ np.tanh(W2 @ np.tanh(W1 @ each)) for each in x[1, 0].double().numpy()]
    np.testing.assert_allclose(worst_gap.outputs(x, worlds.W)[1, 0].numpy(), np.array(by_hand)[:, 0], atol=1e-5)


def test_the_risk_adds_B_times_A_to_every_layer():
    worlds = worst_gap.new_worlds(2)
    A = worst_gap.new_A(worlds, 3, draws=2)
    B = [torch.randn(b.shape, generator=torch.Generator().manual_seed(1)) for b in worst_gap.zero_B(A)]
    x, y = worst_gap.samples(worlds, 6)
    found = worst_gap.risk(worlds, A, B, x, y)
    W = [W[1, 0] + b[1, 0] @ a[1, 0] for W, a, b in zip(worlds.W, A, B)]
    f = worst_gap.outputs(x[1, 0], W)
    # ½(1 - tanh(m)) is the logistic function of -2m.
    assert float(found[1, 0]) == pytest.approx(float(torch.sigmoid(-2 * y[1, 0] * f).mean()), abs=1e-6)
    assert found.shape == (2, 2)


def test_the_projection_is_onto_one_ball_over_all_layers():
    worlds = worst_gap.new_worlds(2)
    B = [torch.randn(b.shape, generator=worlds.draw) for b in worst_gap.zero_B(worst_gap.new_A(worlds, 2))]
    for b in B:
        b[0] *= 1e-3
    before = [b.clone() for b in B]
    worst_gap.project_onto_ball(B)
    norms = torch.stack([(b * b).sum(dim=(1, 2, 3)) for b in B]).sum(dim=0).sqrt()
    assert float(norms[1]) == pytest.approx(3.0, abs=1e-5)
    for b, was in zip(B, before):
        assert torch.equal(b[0], was[0])
        torch.testing.assert_close(b[1] / b[1].norm(), was[1] / was[1].norm())


def test_the_ascent_finds_a_gap_that_training_alone_would_not():
    worlds = worst_gap.new_worlds(2)
    A = worst_gap.new_A(worlds, 2)
    x, y = worst_gap.samples(worlds, 64)
    at_zero = worst_gap.gap(worlds, A, worst_gap.zero_B(A), x, y)
    found = worst_gap.sup_gap(worlds, A, x, y, steps=25)
    assert (found > at_zero.abs() + 0.05).all()


def test_the_gap_without_training_has_the_size_that_a_mean_of_n_has():
    worlds = worst_gap.new_worlds(2)
    found = worst_gap.gap_at_zero(worlds, [64, 256], repeats=400)
    x, y = worst_gap.samples(worlds, 20000)
    losses = 0.5 * (1 - torch.tanh(y * worst_gap.outputs(x, worlds.W)))
    torch.testing.assert_close(found[:, 0], losses.std(dim=-1)[:, 0] / 8, rtol=0.15, atol=0.0)
    torch.testing.assert_close(found[:, 0] / found[:, 1], torch.full((2,), 2.0), rtol=0.15, atol=0.0)


def test_the_bound_is_that_of_the_norms_of_the_draw():
    worlds = worst_gap.new_worlds(2)
    A = worst_gap.new_A(worlds, 3)
    found = worst_gap.bounds(worlds, A, 128)
    layers = [
        FrozenLayer(
            d_out=d_out,
            d_in=d_in,
            r=3,
            norm=float(np.linalg.norm(W[1, 0].numpy(), 2)),
            std=d_in**-0.5,
            norm_A=float(np.linalg.norm(a[1, 0].numpy(), 2)),
        )
        for (d_out, d_in), W, a in zip(worst_gap.SHAPES, worlds.W, A)
    ]
    mine = single_run_bound(layers, n=128, entry_bound=3.0, input_bound=4.0, loss_lipschitz=0.5)
    assert float(found[1, 0]) == pytest.approx(mine.value, rel=1e-5)


def test_the_linear_supremum_is_above_every_point_of_the_ball_and_reached():
    draw = torch.Generator().manual_seed(4)
    v = torch.randn(1, 1, 16, 1, generator=draw) / math.sqrt(50)
    A = torch.randn(1, 1, 3, 16, generator=draw) / 4
    for box, order in ((False, 2), (True, 1)):
        found = float(worst_gap.linear_sup_gap(50, 3, worlds=1, draws=1, box=box, seed=4))
        Av = (A @ v)[0, 0, :, 0]
        B = torch.randn(2000, 3, generator=draw)
        B = 3 * (B.sign() if box else B / B.norm(dim=1, keepdim=True))
        assert float((B @ Av).max()) == pytest.approx(found, rel=0.02)
        assert float((B @ Av).max()) <= found + 1e-6
        assert found == pytest.approx(3 * float(torch.linalg.vector_norm(Av, ord=order)))


def test_the_linear_model_has_the_rates_of_its_law():
    """E‖A·v‖ is E[χ_r]·‖v‖/4, and the box's is r times that of one row."""
    ranks = [1, 4, 16]

    def chi(r: int) -> float:
        return math.sqrt(2) * math.exp(math.lgamma((r + 1) / 2) - math.lgamma(r / 2))

    def means(box: bool) -> list[float]:
        return [float(worst_gap.linear_sup_gap(64, r, worlds=30, draws=400, box=box, seed=1).mean()) for r in ranks]

    ball = means(False)
    assert ball[2] / ball[0] == pytest.approx(chi(16) / chi(1), rel=0.05)
    assert slope(ranks, means(True)).value == pytest.approx(1, abs=0.03)


def test_the_variation_is_over_draws_within_a_seed():
    gaps = np.array([[1.0, 3.0], [10.0, 10.0]])
    assert variation(gaps) == pytest.approx([math.sqrt(2) / 2, 0])


def test_a_guide_has_its_slope_and_the_height_of_the_runs():
    line = guide("", [1, 4, 16], np.full((2, 3), 5.0), 0.5)
    assert slope(line.x, line.y).value == pytest.approx(0.5)
    assert line.y[1] == pytest.approx(5)


@pytest.mark.parametrize("experiment", [SAMPLE_COMPLEXITY, CONCENTRATION], ids=lambda e: e.name)
def test_an_experiment_runs_from_end_to_end_and_again_alike(experiment, monkeypatch):
    """A few steps and samples: the figures are those of the same code, not those of the claim."""
    for module in ("sample_complexity", "concentration"):
        monkeypatch.setattr(f"lopsided.lab.experiments.{module}.sup_gap", short)
        monkeypatch.setattr(f"lopsided.lab.experiments.{module}.RANKS", [1, 2])
    monkeypatch.setattr("lopsided.lab.experiments.sample_complexity.SIZES", [16, 32, 64])
    monkeypatch.setattr("lopsided.lab.experiments.sample_complexity.SIZE", 32)
    monkeypatch.setattr("lopsided.lab.experiments.concentration.DRAWS", 3)
    monkeypatch.setattr("lopsided.lab.experiments.concentration.SIZE", 32)
    first, again = (experiment.run(Request(seeds=2)) for _ in range(2))
    assert [m.value for m in first.measured] == [m.value for m in again.measured]
    assert len(first.measured) == len(experiment.expected)


def short(worlds, A, x, y, *, steps):
    B = worst_gap.ascend(worlds, A, x, y, steps=10)
    return worst_gap.gap(worlds, A, B, x, y)
