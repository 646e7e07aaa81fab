"""Landscapes of models whose loss is known everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import lopsided
from lopsided import LopsidedError
from lopsided.curvature.batches import mean_loss
from lopsided.diagnose.directions import (
    Directions,
    normalised,
    plane_parameters,
    random_directions,
    trajectory_directions,
    transposed_names,
)
from lopsided.diagnose.loss_grid import axis, landscape
from lopsided.runs import TrainConfig, load_data
from lopsided.runs.evaluated_rows import sample_rows
from lopsided.runs.reload import reload_merged
from lopsided.runs.trajectory import snapshots
from tests import tiny

LABELS = [{"labels": torch.zeros(2)}]


class Bowl(nn.Module):
    """L = ½·Σ h·w² + ⟨c, w⟩ of a matrix, and a bias that stays out of it."""

    def __init__(self, w, h) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.bias = nn.Parameter(torch.ones(3))
        self.register_buffer("h", torch.tensor(h))
        self.calls = 0

    def loss(self, batch):
        self.calls += 1
        return 0.5 * (self.h * self.w**2).sum()


def bowl() -> Bowl:
    return Bowl([[3.0, 4.0], [0.0, 2.0]], [[1.0, 2.0], [0.5, 4.0]])


def loss(model, batch):
    return model.loss(batch)


def bits(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone().view(torch.int32) for name, p in model.named_parameters()}


def assert_same_bits(model, before) -> None:
    for name, tensor in bits(model).items():
        assert torch.equal(tensor, before[name]), name


# -- the surface ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [5, 4])
def test_a_bowls_surface_is_the_quadratic(points):
    model = bowl()
    w, h = model.w.detach().double(), model.h.double()
    directions = random_directions(plane_parameters(model), seed=3)
    d1, d2 = directions.first["w"].double(), directions.second["w"].double()
    found = landscape(model, directions, LABELS, points=points, loss=loss)
    expected = [[float(0.5 * (h * (w + a * d1 + b * d2) ** 2).sum()) for a in axis(points)] for b in axis(points)]
    assert np.allclose(found.loss, expected, rtol=1e-5)
    assert np.allclose(found.line, [float(0.5 * (h * (w + t * d1) ** 2).sum()) for t in found.t], rtol=1e-5)
    assert found.centre == pytest.approx(float(0.5 * (h * w**2).sum()), rel=1e-6)
    assert found.not_finite == 0
    # With an odd number the line and the centre are points of the surface.
    assert model.calls == (25 if points == 5 else 16 + 4 + 1)


def test_a_is_along_the_columns_and_b_along_the_rows():
    model = bowl()
    first, second = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    directions = Directions(kind="random", first={"w": first}, second={"w": second})
    found = landscape(model, directions, LABELS, points=3, loss=loss)
    assert found.axis == [-1.0, 0.0, 1.0]
    # At a = 1: w[0, 0] = 4; at b = 1: w[1, 1] = 3.
    assert found.loss[1][2] == pytest.approx(0.5 * (16 + 2 * 16 + 4 * 4))
    assert found.loss[2][1] == pytest.approx(0.5 * (9 + 2 * 16 + 4 * 9))


def test_a_smaller_extent_is_the_same_function_nearer():
    model, directions = bowl(), random_directions(plane_parameters(bowl()), seed=3)
    near, far = (landscape(model, directions, LABELS, points=5, extent=e, loss=loss) for e in (0.5, 1.0))
    assert near.axis == near.t == [-0.5, -0.25, 0.0, 0.25, 0.5]
    assert near.line[0] == pytest.approx(far.line[1], rel=1e-6)
    assert near.loss[4][0] == pytest.approx(far.loss[3][1], rel=1e-6)


def test_points_without_a_finite_loss_are_counted():
    model = bowl()

    def broken(model, batch):
        value = model.loss(batch)
        return value * float("nan") if model.w[0, 0] > 3.5 else value / (model.w[1, 1] > 1.5).float()

    first, second = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    found = landscape(
        model, Directions(kind="random", first={"w": first}, second={"w": second}), LABELS, points=3, loss=broken
    )
    # NaN in the column a = 1, Inf in the row b = -1.
    lost = [[value is None for value in row] for row in found.loss]
    assert lost == [[True, True, True], [False, False, True], [False, False, True]]
    assert found.not_finite == 5
    assert found.line[-1] is None
    assert found.to_json()["loss"][0] == [None] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_weights_are_restored_after_an_interruption(error):
    model = tiny.bert().train()
    with torch.no_grad():
        # A sum with zero turns -0 into 0, and a subtraction would not bring back what rounding took.
        next(model.parameters())[0, 0] = -0.0
    before, calls = bits(model), []

    def stops(model, batch):
        calls.append(not all(torch.equal(p.detach().view(torch.int32), before[n]) for n, p in model.named_parameters()))
        if len(calls) == 4:
            raise error
        return torch.tensor(0.0)

    with pytest.raises(error):
        landscape(model, random_directions(plane_parameters(model)), LABELS, points=3, loss=stops)
    assert calls == [True] * 4
    assert_same_bits(model, before)
    assert all(module.training for module in model.modules())


def test_a_merged_adapters_surface_and_its_restoration():
    model = lopsided.adapt(tiny.bert(), "c3la", r=2, target_modules="all-linear", links=2)
    tiny.train_a_little(model)
    model = model.merge_and_unload()
    batches = [{**tiny.inputs(model), "labels": torch.tensor([0, 1, 2])}]
    plain, before = mean_loss(model.eval(), batches), bits(model)
    done = []
    directions = random_directions(plane_parameters(model), seed=1)
    found = landscape(model, directions, batches, points=3, done=lambda number, total: done.append((number, total)))
    assert found.centre == pytest.approx(plain, abs=1e-6)
    assert min(v for row in found.loss for v in row) < max(v for row in found.loss for v in row) - 1e-3
    assert_same_bits(model, before)
    assert done == [(n, 9) for n in range(1, 10)]
    # The same surface once more, from weights put there by hand.
    with torch.no_grad():
        for name, parameter in plane_parameters(model).items():
            parameter += directions.first[name] - directions.second[name]
    assert mean_loss(model, batches) == pytest.approx(found.loss[0][2], abs=1e-5)


def test_batches_of_any_size_give_the_mean_over_rows():
    model = tiny.bert()
    ids, labels = torch.arange(18).view(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    whole = [{"input_ids": ids, "labels": labels}]
    parts = [{"input_ids": ids[:1], "labels": labels[:1]}, {"input_ids": ids[1:], "labels": labels[1:]}]
    assert mean_loss(model, parts) == pytest.approx(mean_loss(model, whole), rel=1e-5)
    language, tokens = tiny.gpt2(), ids.clone()
    tokens[:, 0] = -100
    tokens[0, 1] = -100
    whole = [{"input_ids": ids, "labels": tokens}]
    parts = [{"input_ids": ids[:1], "labels": tokens[:1]}, {"input_ids": ids[1:], "labels": tokens[1:]}]
    assert mean_loss(language, parts) == pytest.approx(mean_loss(language, whole), rel=1e-5)


def test_what_the_record_holds():
    model = bowl()
    directions = trajectory_directions(
        plane_parameters(model), [{"w": model.w + torch.eye(2)}, {"w": model.w - torch.ones(2, 2)}]
    )
    made = landscape(model, directions, LABELS, points=3, loss=loss).to_json(steps=[8, 16], split="validation")
    assert made["directions"] == "trajectory"
    assert (made["rows"], made["split"], made["normalised"], made["seed"]) == (2, "validation", "filters", None)
    assert [point["step"] for point in made["path"]] == [8, 16]
    assert sum(made["explained"]) == pytest.approx(1.0)
    assert set(made) == {
        *("directions", "normalised", "seed", "rows", "split", "axis", "loss", "not_finite", "centre", "path"),
        *("explained", "line"),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: axis(1), "at least 2 points along an axis, got 1"),
        (lambda: axis(3, 0.0), "positive extent of the axes, got 0.0"),
        (lambda: landscape(bowl(), random_directions({"w": torch.ones(2, 2)}), []), "got none"),
        (lambda: landscape(bowl(), random_directions({"w": torch.ones(2, 2)}), [{"x": 1}]), "without labels"),
        (lambda: landscape(bowl(), random_directions({"v": torch.ones(2, 2)}), LABELS), "got one of v"),
        (
            lambda: plane_parameters(lopsided.adapt(tiny.bert(), "cla", r=2, target_modules="all-linear")),
            "under an adapter; pass model.merge_and_unload",
        ),
        (lambda: plane_parameters(nn.LayerNorm(3)), "got none in LayerNorm"),
    ],
)
def test_bad_input_is_one_line(change, message):
    with pytest.raises(LopsidedError, match=message) as caught:
        change()
    assert "\n" not in str(caught.value)


# -- directions ----------------------------------------------------------------------------------------------


def test_random_directions_have_the_norms_of_the_filters_and_no_biases():
    model = tiny.gpt2()
    parameters, transposed = plane_parameters(model), transposed_names(model)
    assert any(name.endswith("c_attn.weight") for name in transposed)
    directions = random_directions(parameters, seed=2, transposed=transposed)
    assert set(directions.first) == set(parameters) == {n for n, p in model.named_parameters() if p.dim() == 2}
    for name, weight in parameters.items():
        axis_of_filter = 0 if name in transposed else 1
        for d in (directions.first[name], directions.second[name]):
            assert torch.allclose(d.norm(dim=axis_of_filter), weight.norm(dim=axis_of_filter), rtol=1e-5)


def test_random_directions_are_the_same_on_any_number_of_threads():
    parameters, threads = plane_parameters(tiny.bert()), torch.get_num_threads()
    made = []
    for number in (1, 2):
        torch.set_num_threads(number)
        made.append(random_directions(parameters, seed=5))
    torch.set_num_threads(threads)
    others = random_directions(parameters, seed=6)
    for name in parameters:
        assert torch.equal(made[0].first[name], made[1].first[name])
        assert not torch.allclose(made[0].first[name], others.first[name])
        assert not torch.allclose(made[0].first[name], made[0].second[name])
    # Frozen: other numbers would be another landscape under the same seed.
    drawn = random_directions({"w": torch.ones(1, 4)}, seed=0).first["w"]
    assert torch.allclose(drawn, torch.tensor([[0.5760, 1.3628, -1.1443, -0.7083]]), atol=1e-4)


def planted(seed: int = 0):
    """Two directions that are orthogonal, and as long as the centre, filter by filter."""
    generator = torch.Generator().manual_seed(seed)
    centre = {
        "a": torch.randn(5, 8, generator=generator),
        "still": torch.randn(3, 3, generator=generator),
        "conv": torch.randn(6, 4, generator=generator),
    }
    planes = []
    for name in ("a", "conv"):
        w = centre[name].t() if name == "conv" else centre[name]
        basis = torch.linalg.qr(torch.randn(len(w), w.shape[1], 2, generator=generator).double())[0]
        pair = [(basis[:, :, k] * w.double().norm(dim=1, keepdim=True)) for k in range(2)]
        planes.append([(d.t() if name == "conv" else d).float() for d in pair])
    return centre, *({"a": planes[0][k], "conv": planes[1][k]} for k in range(2))


def test_a_planted_trajectory_is_found():
    centre, p, q = planted()
    coordinates = np.array([(0.9, 0.5), (0.6, -0.1), (0.3, 0.2), (0.1, 0.0)])

    def at(a, b):
        return {name: w + (a * p[name] + b * q[name] if name in p else 0) for name, w in centre.items()}

    found = trajectory_directions(centre, [at(a, b) for a, b in coordinates], transposed=frozenset({"conv"}))
    assert sum(found.explained) == pytest.approx(1.0, abs=1e-6)
    moment = coordinates.T @ coordinates
    values, vectors = np.linalg.eigh(moment)
    assert found.explained[0] == pytest.approx(values[1] / values.sum(), abs=1e-5)
    # The path is the planted one in the principal axes, each with the first snapshot on its positive side.
    turned = coordinates @ vectors[:, ::-1]
    turned *= np.where(turned[0] < 0, -1.0, 1.0)
    assert np.allclose(found.path, turned, atol=1e-5)
    assert set(found.first) == {"a", "conv"}
    for (a, b), snapshot in zip(found.path, [at(a, b) for a, b in coordinates]):
        for name in found.first:
            assert torch.allclose(
                centre[name] + a * found.first[name] + b * found.second[name], snapshot[name], atol=1e-5
            )


def test_the_shares_are_those_of_a_singular_value_decomposition():
    generator = torch.Generator().manual_seed(1)
    centre = {"w": torch.randn(4, 6, generator=generator), "v": torch.randn(3, 2, generator=generator)}
    snapshots = [{n: w + torch.randn(w.shape, generator=generator) for n, w in centre.items()} for _ in range(5)]
    found = trajectory_directions(centre, snapshots)
    D = torch.stack([torch.cat([(s[n] - centre[n]).flatten() for n in centre]) for s in snapshots], 1).double()
    U, S, _ = torch.linalg.svd(D, full_matrices=False)
    assert found.explained == pytest.approx((S**2 / (S**2).sum())[:2].tolist(), abs=1e-6)
    for k, direction in enumerate((found.first, found.second)):
        u = U[:, k] * torch.sign(D[:, 0] @ U[:, k])
        for name, part in zip(centre, u.split([24, 6])):
            expected = normalised(part.view_as(centre[name]).float(), centre[name])
            assert torch.allclose(direction[name], expected, atol=1e-5)
    # The coordinates are the nearest point's: what is left is orthogonal to the plane.
    flat = [torch.cat([d[n].flatten() for n in centre]).double() for d in (found.first, found.second)]
    for (a, b), column in zip(found.path, D.T):
        left = column - a * flat[0] - b * flat[1]
        assert max(abs(float(left @ d) / float(d.norm() * column.norm())) for d in flat) < 1e-6


@pytest.mark.parametrize(
    ("snapshots", "message"),
    [
        (lambda c: [c], "needs at least 2 snapshots before the centre, got 1; raise --evaluations"),
        (lambda c: [{"w": c["w"] + 1}, {"w": c["w"] + 2}, {"w": c["w"] + 3}], "got 3 on one line"),
        (lambda c: [c, c], "got 2 on one line"),
        (lambda c: [{"w": c["w"] + 1}, {"v": c["w"]}], "where w is missing"),
        (lambda c: [{"w": c["w"] + 1}, {"w": torch.ones(3)}], "of another shape"),
    ],
)
def test_trajectories_without_a_plane(snapshots, message):
    centre = {"w": torch.arange(6.0).view(2, 3)}
    with pytest.raises(LopsidedError, match=message) as caught:
        trajectory_directions(centre, snapshots(centre))
    assert "\n" not in str(caught.value)


def test_a_filter_that_a_direction_leaves_alone_stays_alone():
    weight = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    direction = torch.tensor([[0.0, 1e-30], [0.0, 0.0], [5.0, 5.0]])
    assert torch.allclose(normalised(direction, weight), torch.tensor([[0.0, 5.0], [0.0, 0.0], [0.0, 0.0]]))
    # Norms must not flush or overflow.
    assert math.isclose(normalised(torch.full((1, 4), 1e30), torch.ones(1, 4)).norm().item(), 2.0, rel_tol=1e-6)


# -- a run's own landscape -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["c3la", "lora"])
def test_a_runs_trajectory_lies_where_the_run_was(run_once, bert, words, method):
    folder, record = run_once(model=bert, task=words, method=method)
    model, steps = reload_merged(folder), [step for step in snapshots(folder) if step < record["best_step"]]
    centre = {name: parameter.detach().clone() for name, parameter in plane_parameters(model).items()}
    ways = (plane_parameters(reload_merged(folder, snapshot=step)) for step in steps)
    directions = trajectory_directions(centre, ways)
    # Embeddings are left alone by an adapter; its layers and the head are not.
    assert "bert.embeddings.word_embeddings.weight" not in directions.first
    assert {"classifier.weight", "bert.encoder.layer.0.attention.self.query.weight"} <= set(directions.first)
    config = TrainConfig(**record["config"], out=folder)
    data = load_data(config)
    rows = sample_rows(data.encoded.splits["validation"], None)
    collate = data.collator()
    batches = [dict(collate([rows[i] for i in range(len(rows))]))]
    found = landscape(model, directions, batches, points=3)
    losses = {entry["step"]: entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry}
    assert found.centre == pytest.approx(losses[record["best_step"]], abs=1e-5)
    assert [point["step"] for point in found.to_json(steps=steps)["path"]] == steps
    # The run has come nearer: its way is longer at its beginning.
    lengths = [math.hypot(a, b) for a, b in directions.path]
    assert lengths[0] == max(lengths) > 0
    assert 0.5 < sum(directions.explained) <= 1.0 + 1e-9
