"""The landscape's benchmark, once on a tiny model."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import landscape as script
from lopsided.curvature.batches import mean_loss


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_script_measures_and_writes(bert, words, tmp_path, capsys):
    options = {"model": bert, "task": words, "r": 2, "rows": 12, "batch_size": 5, "points": 3, "rounds": 2}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert script.main([*arguments, "--threads", "1", "--whole", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "landscape.json").read_text())
    assert set(result["figures"]) == {
        *("row_to_evaluations", "processor_row_to_evaluations", "surface_to_evaluations"),
    }
    for clock in ("milliseconds", "processor_milliseconds"):
        assert [len(times) for times in result[clock].values()] == [2, 2]
    assert result["shapes"]["batches"] == 3
    printed = capsys.readouterr().out
    assert "a row of 3 points against 3 evaluations | at most 1.15 |" in printed
    assert "12 rows in 3 batches, 2 rounds" in printed


def test_the_merged_adapter_is_in_the_weights(bert, words):
    setting = script.Setting(model=bert, task=words, r=2, rows=12, batch_size=5)
    model, batches = script.merged_model(setting)
    plain = script.load_inputs(script.TrainConfig(model=bert, task=words, out=script.Path("unused"))).model
    assert mean_loss(model, batches) != pytest.approx(mean_loss(plain.eval(), batches), abs=1e-4)
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert lengths == sorted(lengths)


def test_bad_input_is_one_line(tmp_path, capsys):
    assert script.main(["--task", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("landscape: ")
