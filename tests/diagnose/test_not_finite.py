"""NaN, infinities and means over nothing never become a figure of a diagnosis: a layer is left out by name."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from lopsided import LopsidedError
from lopsided.diagnose.directions import trajectory_directions
from lopsided.diagnose.own_skill import _change, _token_mean
from lopsided.diagnose.sections.generalization import generalization
from lopsided.diagnose.sections.intruders import intruders
from lopsided.diagnose.sections.similarity import similarities
from lopsided.diagnose.sections.timeline import timeline
from lopsided.diagnose.sections.updates import spectra
from lopsided.diagnose.tables import cells, headings
from lopsided.diagnose.tuned_model import Layer, Update
from lopsided.stats import paired_interval
from lopsided.tasks import get_metric
from lopsided.theory.subspaces import basis
from tests.diagnose.cases import logged_run, random_layer, tuned_model

BAD = (math.nan, math.inf, -math.inf)


def named(layer: Layer, module: str) -> Layer:
    return Layer(module, layer.weight, layer.links)


def broken(part: str, bad: float, module: str) -> Layer:
    """A layer with one number that is not finite in its weight, or in a factor of its update."""
    layer = random_layer(12, 10, 2, share=0.1, seed=7)
    weight, left, right = layer.weight.clone(), layer.links[0].left.clone(), layer.links[0].right.clone()
    {"weight": weight, "left": left, "right": right}[part][1, 1] = bad
    return Layer(module, weight, (Update(left, right),))


def layers_with(bad: Layer, position: int) -> list[Layer]:
    layers = [named(random_layer(12, 10, 2, share=0.3, seed=seed), f"encoder.{seed}.query") for seed in range(3)]
    return [*layers[:position], bad, *layers[position:]]


@pytest.mark.parametrize(("part", "bad"), itertools.product(("weight", "left", "right"), BAD))
@pytest.mark.parametrize("position", [0, 1, 3])
def test_a_layer_that_can_t_be_computed_is_left_out_by_name(part, bad, position, tmp_path):
    module = "encoder.9.key"
    tuned = tuned_model(*layers_with(broken(part, bad, module), position))
    rows = spectra(tuned, cache=tmp_path)
    [lost] = [row for row in rows if row["module"] == module]
    assert lost["delta"]["frobenius"] is lost["delta"]["stable_rank"] is lost["delta"]["rank"] is None
    assert lost["why"]["delta"].startswith(
        f"{module}: the {'weight' if part == 'weight' else 'update'} holds NaN or Inf"
    )
    others = spectra(tuned_model(*[layer for layer in tuned.layers if layer.module != module]), cache=tmp_path)
    assert [row for row in rows if row["module"] != module] == others

    found = intruders(tuned, cache=tmp_path, top=3)
    alone = intruders(tuned_model(*[layer for layer in tuned.layers if layer.module != module]), cache=tmp_path, top=3)
    assert found["layers"] == {"counted": 3, "of": 4}
    assert found["why"] == {f"by_layer.{module}": lost["why"]["delta"]}
    for which in ("all", "top_k"):
        assert found[which]["by_layer"][module] is None
        assert found[which]["mean"] == alone[which]["mean"]
        assert "key" not in found[which]["by_kind"]
    json.dumps([rows, found], allow_nan=False)
    told = cells({"run": {"name": "x"}, "layers": rows, "intruders": found})
    assert headings()[2:5] == ["intruders", "‖ΔW‖", "stable rank"]
    assert told[2].endswith("3 of 4 layers)")
    assert told[3] == "–"
    assert told[4].endswith("(3 of 4 layers)")


def test_nothing_but_broken_layers_is_refused(tmp_path):
    tuned = tuned_model(broken("left", math.nan, "a"), broken("right", math.inf, "b"))
    for compute in (spectra, intruders):
        with pytest.raises(LopsidedError, match="a: the update holds NaN or Inf, and so do all 2 layers"):
            compute(tuned, cache=tmp_path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_energy_of_a_broken_update_is_no_zero(bad):
    left, right = torch.ones(3, 2), torch.ones(2, 4)
    left[0, 0] = bad
    assert not math.isfinite(Update(left, right).energy())
    assert not math.isfinite(Update(left).energy())
    [link] = timeline(logged_run(None, history=[], steps=4), [[Update(left, right)]])["links"]
    assert link["norm"] is None
    assert link["why"] == {"norm": "the update holds NaN or Inf"}


def test_a_broken_factor_is_compared_with_nothing():
    draw = np.random.RandomState(0)

    def model(id: str, bad: bool):
        factors = {m: torch.tensor(draw.standard_normal((8, 2)), dtype=torch.float32) for m in ("a", "b")}
        if bad:
            factors["a"][0, 0] = math.nan
        return tuned_model(id=id, factors={"B": factors, "A": {m: X.T for m, X in factors.items()}})

    whole, other, lacking = model("0", False), model("1", False), model("2", True)
    found = similarities([whole, other, lacking])
    assert found["0"]["layers"]["B"] == {"1": 2, "2": 1}
    assert found["0"]["layers"]["of"] == {"B": 2, "A": 2}
    assert all(0 <= value <= 1 for value in found["0"]["B"].values())
    with pytest.raises(LopsidedError, match="expected a finite factor"):
        basis(np.array([[math.nan, 1.0]]))


def test_a_split_of_one_row_has_no_interval():
    rows = {split: {"loss": np.linspace(0, 1, n)} for split, n in (("train", 9), ("validation", 5), ("test", 1))}
    found = generalization(rows, draws=50)
    assert found["splits"]["test"]["loss"] == 0.0
    assert found["splits"]["test"]["low"] is found["gaps"]["test"]["high"] is found["G"]["low"] is None
    assert found["G"]["value"] == pytest.approx(0.5)
    assert found["G"]["why"]["high"] == "one row has no interval (test)"
    assert found["gaps"]["validation"]["low"] < found["gaps"]["validation"]["high"]
    alone = generalization({**rows, "train": {"loss": np.ones(1)}}, draws=50)
    assert alone["gaps"]["validation"]["why"]["low"] == "one row has no interval (train)"


def test_rows_without_a_token_have_no_loss():
    rows = {"loss": np.array([1.0, 0.0, 3.0]), "tokens": np.array([4, 0, 2])}
    found = generalization({"train": rows, "test": rows}, draws=50)
    assert (found["splits"]["test"]["loss"], found["splits"]["test"]["rows"]) == (2.0, 2)
    with pytest.raises(LopsidedError, match="no row to predict in 'test'"):
        generalization({"train": rows, "test": {"loss": np.zeros(2), "tokens": np.zeros(2, int)}}, draws=50)


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_a_loss_that_is_not_finite_is_no_change(side):
    rows = {name: {"loss": np.ones(30), "tokens": np.full(30, 2)} for name in ("base", "tuned")}
    rows[side]["loss"][4] = math.nan
    found = _change("text", "loss", "low", rows["base"], rows["tuned"], _token_mean, 50).to_json()
    assert found[side] is found["change"] is found["low"] is found["high"] is None
    assert found["why"]["change"].startswith(f"the loss of the {side} model is not finite")
    json.dumps(found, allow_nan=False)


def test_similarities_that_are_all_equal_correlate_with_nothing():
    sides = [
        {"prediction": np.full(30, 0.5), "label": np.arange(30.0)},
        {"prediction": np.arange(30.0), "label": np.arange(30.0)},
    ]
    found = _change("pairs", "spearman", "high", *sides, get_metric("spearman").value, 50)
    assert (found.base, found.change, found.low) == (None, None, None)
    assert found.tuned == pytest.approx(1.0)
    assert math.isnan(paired_interval(*sides, get_metric("spearman").value, draws=50)[0])


def test_snapshots_with_nan_span_no_plane():
    centre = {"w": torch.ones(3, 3)}
    snapshots = [{"w": torch.ones(3, 3) * k} for k in (2.0, 3.0)]
    snapshots[1]["w"][0, 0] = math.nan
    with pytest.raises(LopsidedError, match="expected finite snapshots, got NaN or Inf in w"):
        trajectory_directions(centre, snapshots)


def test_what_a_table_shows_of_a_search_that_did_not_converge():
    sharpness = {
        "radius": 0.1,
        "largest": None,
        "hessian_top": 3.25,
        "hessian_residual": 0.5,
        "hessian_converged": False,
    }
    told = cells({"run": {"name": "x"}, "landscape": {"sharpness": sharpness}})
    assert told[5:7] == ["–", "3.25 (± 0.5, not converged)"]
    of_0_1_0 = {"radius": 0.1, "largest": 1.0, "hessian_top": 3.25, "hessian_residual": 0.5}
    assert cells({"run": {"name": "x"}, "landscape": {"sharpness": of_0_1_0}})[6] == "3.25"
