"""The script that answers the study's question, on diagnoses with known differences."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import findings as script
from lopsided import METHODS
from lopsided.runs import read_run
from lopsided.runs.directory import write_run
from tests.tiny_runs import whole_record


def change(run, **sections):
    """Other sections of a run's record, of which its diagnosis is, too."""
    write_run(run, read_run(run).to_json() | sections)
    path = run / "diagnosis.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run": {"id": read_run(run).id}}))


def study(folder, methods: dict[str, float], seeds=(0, 1, 2), rates: dict[str, float] | None = None):
    """Runs of which every figure is the method's number plus the seed; a method's own rate is 1."""
    for method, level in methods.items():
        for seed in seeds:
            run = folder / "runs" / f"{method}-seed{seed}"
            run.mkdir(parents=True)
            x = level + seed
            rate = 1.0 if rates is None else rates[method]
            record = whole_record(method=METHODS[method].parts() | {"lr": rate}, config={"seed": seed})
            figures = record["metrics"]["test"] | {"score": x / 100}
            record["metrics"] = {"test": figures, "vader/nyt": figures}
            record["task"]["out_of_domain"] = ["vader/nyt"]
            write_run(run, record)
            diagnosis = {
                "schema": 1,
                "run": {"id": read_run(run).id},
                "intruders": {"epsilons": [0.25, 0.5], "all": {"mean": [0, x]}, "top_k": {"mean": [0, x]}},
                "landscape": {"sharpness": {"hessian_top": x, "largest": x}},
                "layers": [{"delta": {"frobenius": x}}],
                "generalization": {"gaps": {"test": {"value": x}}, "splits": {"test": {"loss": x}}},
            }
            (run / "diagnosis.json").write_text(json.dumps(diagnosis))


def test_differences_are_paired_by_seed(tmp_path, capsys):
    study(tmp_path, {"asym_b": 10.0, "rac_b": 13.0, "cla": 20.0, "c3la": 25.0, "full": 50.0})
    assert script.main([str(tmp_path), "--out", str(tmp_path / "f.json")]) == 0
    result = json.loads((tmp_path / "f.json").read_text())
    own = {"rac_b": "asym_b", "c3la": "cla"}
    assert result["pairs"] == {"each at its own learning rate": own, "both at one learning rate": own}
    for found in result["figures"].values():
        # Seeds move both alike, so that a paired interval has no width, and a method's own has.
        apart = found["chain less twin"]["each at its own learning rate"]
        assert apart["rac_b"]["value"] == pytest.approx(3)
        assert np.ptp(apart["rac_b"]["interval"]) == pytest.approx(0, abs=1e-9)
        assert apart["all"]["value"] == pytest.approx(4)
        assert np.ptp(found["methods"]["full"]["interval"]) > 1
    assert "`rac_b` minus `asym_b`" in capsys.readouterr().out


def test_a_twin_at_the_chains_rate_is_another_comparison(tmp_path):
    study(tmp_path / "own", {"lora": 1.0, "cola": 5.0}, rates={"lora": 1.0, "cola": 1.0})
    for run in (tmp_path / "own" / "runs").glob("cola*"):
        change(run, learning_rate=3.0, method=METHODS["cola"].parts() | {"lr": 3.0})
    study(tmp_path / "other", {"lora": 4.0})
    for run in (tmp_path / "other" / "runs").iterdir():
        change(run, learning_rate=3.0)
    result = script.measure(script.read_study([tmp_path / "own", tmp_path / "other"]))
    assert result["pairs"] == {
        "each at its own learning rate": {"cola": "lora"},
        "both at one learning rate": {"cola": "lora at 3"},
    }
    apart = result["figures"]["gap"]["chain less twin"]
    assert apart["each at its own learning rate"]["cola"]["value"] == pytest.approx(4)
    assert apart["both at one learning rate"]["cola"]["value"] == pytest.approx(1)


def test_a_figure_that_a_run_lacks_is_left_out(tmp_path):
    study(tmp_path, {"asym_b": 1.0, "rac_b": 2.0, "full": 3.0})
    path = tmp_path / "runs" / "full-seed1" / "diagnosis.json"
    diagnosis = json.loads(path.read_text())
    path.write_text(json.dumps(diagnosis | {"landscape": None}))
    found = script.measure(script.read_study([tmp_path]))["figures"]
    assert "full" not in found["hessian_top"]["methods"]
    assert "full" in found["gap"]["methods"]


def test_bad_input_is_one_line(tmp_path, capsys):
    study(tmp_path / "a", {"lora": 1.0, "cla": 1.0})
    (tmp_path / "empty").mkdir()
    for folder, said in ((tmp_path / "a", "a chain and its twin"), (tmp_path / "empty", "without a run.json")):
        assert script.main([str(folder), "--out", str(tmp_path / "f.json")]) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1
    (tmp_path / "a" / "runs" / "lora-seed0" / "diagnosis.json").unlink()
    assert script.main([str(tmp_path / "a"), "--out", str(tmp_path / "f.json")]) == 2
    assert "without diagnosis.json" in capsys.readouterr().err
