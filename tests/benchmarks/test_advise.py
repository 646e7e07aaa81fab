"""The script that compares advice with real runs, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.stats import kendalltau

from benchmarks import advise as script
from lopsided import METHODS


def test_a_rank_correlation_and_its_interval():
    found = script.agreement([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5])
    assert found["rho"] == pytest.approx(1 - 6 * 6 / (6 * 35))
    assert found["low"] < found["rho"] <= found["high"] <= 1
    # Not the other rank correlation.
    assert found["rho"] != pytest.approx(kendalltau([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5]).statistic)
    assert script.agreement([1, 2, 3], [3, 2, 1])["rho"] == -1


@pytest.mark.more
def test_the_script_from_end_to_end(bert, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "RATE", 1e-2)
    sizes = {
        "r": 2,
        "batches": 2,
        "batch-size": 8,
        "head-steps": 2,
        "layer-steps": 1,
        "eval-batches": 2,
        "stride": 1,
    }
    options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    assert script.main(["--model", bert, "--task", words, "--out", str(tmp_path / "a.json"), *options]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert len({(p["module"], p["method"]) for p in result["layers"]}) == 2 * 13
    assert "Spearman" in capsys.readouterr().out
    assert [c["damping"] for c in result["correlations"]] == list(script.DAMPINGS)


def test_a_run_trains_its_layers_and_lowers_the_loss(bert, words):
    config = script.TrainConfig(model=bert, task=words, batch_size=8, out=Path("unused"))
    inputs = script.advice_inputs(config)
    model = inputs.model
    held_out, training = script.task_batches(inputs.rows, 8, 2, seed=0)
    before = script.mean_loss(model, held_out)
    bench = script.Bench(model, training, held_out, before)
    name = "bert.encoder.layer.1.output.dense"
    assert bench.reduction(METHODS["asym_b"], {name: 8}, lr=0.0, steps=3) == 0
    assert bench.reduction(METHODS["asym_b"], {name: 8}, lr=1e-2, steps=6) != 0
    assert script.mean_loss(model, held_out) == before


def test_too_many_steps_are_one_line(bert, words, tmp_path, capsys):
    options = ["--model", bert, "--task", words, "--layer-steps", "50", "--out", str(tmp_path / "a.json")]
    assert script.main(options) == 2
    assert capsys.readouterr().err.count("\n") == 1
