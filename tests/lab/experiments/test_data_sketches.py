"""Sketches from data against random ones: how methods are tuned, what is compared, and what follows."""

from __future__ import annotations

import dataclasses
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import data_sketches as benchmark
from lopsided import METHODS
from lopsided.lab import Request, verdict
from lopsided.lab.experiments import data_sketches
from lopsided.lab.experiments.data_sketches import EXPERIMENT, PAIRS, QUICK, TRIAL_SEED, SketchSetting, measure, outcome
from lopsided.lab.result_file import read_result
from lopsided.runs.nonfinite import NonFinite


def fake_run(config, share: float, validation_loss: float, trained: int = 100) -> SimpleNamespace:
    # Every method has as many right as its share says, and its own rows among them.
    draw = np.random.RandomState(config.seed + zlib.crc32(config.method.encode()) % 10**6)
    rows = {"label": np.ones(500, dtype=int), "prediction": (draw.permutation(500) < 500 * share).astype(int)}
    rows["loss"] = 1.0 - rows["prediction"]
    return SimpleNamespace(
        predictions={"test": rows, "validation": {"loss": np.full(9, validation_loss)}},
        trained_parameters=trained,
        calibration=None,
    )


@pytest.fixture
def made(monkeypatch):
    """Runs of made-up answers, by the shares that are right; returns what was asked for."""
    asked, shares = [], {}

    def train(config, *, resume, prepared):
        asked.append(config)
        if config.method == "cla" and config.lr == 3e-2:
            raise NonFinite("the loss is nan")
        # The higher the rate, the better, but for one method.
        loss = 1.0 - config.lr if config.method != "rcla" else config.lr
        return fake_run(config, shares.get(config.method, 0.7), loss, shares.get("trained", {}).get(config.method, 100))

    monkeypatch.setattr(data_sketches, "train", train)
    monkeypatch.setattr(data_sketches, "load_data", lambda config: None)
    monkeypatch.setattr(data_sketches, "few_rows", lambda data, most: None)
    monkeypatch.setattr(data_sketches, "with_data", lambda data: None)
    return asked, shares


def test_every_method_is_tuned_by_the_same_trials_on_rows_that_no_figure_comes_from(made, tmp_path):
    asked, _ = made
    setting = SketchSetting()
    found = measure(setting, tmp_path, lambda text: None)
    trials = [config for config in asked if config.seed == TRIAL_SEED]
    finals = [config for config in asked if config.seed != TRIAL_SEED]
    assert {(c.method, c.lr) for c in trials} == {(m, r) for m in setting.methods for r in setting.rates}
    assert not any(config.test for config in trials)
    assert all(config.test for config in finals)
    assert {(c.method, c.seed) for c in finals} == {(m, s) for m in setting.methods for s in range(3)}
    assert found.rates == {"ipa_b": 3e-2, "asym_b": 3e-2, "act_cla": 3e-2, "cla": 1e-2, "rcla": 3e-4}
    assert all(config.lr == found.rates[config.method] for config in finals)
    # Nothing else differs.
    same = [dataclasses.replace(c, method="cla", lr=1.0, seed=0, test=True, out=tmp_path) for c in asked]
    assert all(config == same[0] for config in same)
    assert len({config.out for config in asked}) == len(asked)


def test_pairs_have_equal_numbers_and_differ_by_the_sketch_alone():
    for first, second in PAIRS:
        mine, other = METHODS[first], METHODS[second]
        assert mine.trained_numbers(40, 30, 4) == other.trained_numbers(40, 30, 4)
        assert (mine.side, mine.chain) == (other.side, other.chain)
        assert mine.reads_inputs
        assert not other.reads_inputs


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"ipa_b": 0.9, "act_cla": 0.85}, "reproduced"),
        ({"ipa_b": 0.9, "act_cla": 0.5}, "partly"),
        ({"ipa_b": 0.7}, "undecided"),
    ],
)
def test_the_verdict_follows_from_the_answers(made, shares, expected):
    made[1].update(shares)
    result = data_sketches.run(Request(size="full"))
    assert verdict(EXPERIMENT, result) == expected
    assert result.settings["seeds"] == 3
    assert result.details["validation loss by rate"]["cla"]["0.03"] is None


def test_unequal_numbers_would_show(made, tmp_path):
    made[1]["trained"] = {"cla": 90}
    setting = dataclasses.replace(QUICK, seeds=3)
    *_, unequal = outcome(setting, measure(setting, tmp_path, lambda text: None)).measured
    assert unequal.value == 10
    assert EXPERIMENT.expected[-1].judge(unequal).state == "fails"


def test_the_script_writes_the_record_that_the_command_line_would(made, tmp_path, one_thread, capsys):
    made[1].update({"ipa_b": 0.9, "act_cla": 0.85})
    assert benchmark.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "record")]) == 0
    result = read_result(tmp_path / "record")
    assert (result.name, result.size, result.verdict) == ("data-sketches", "full", "reproduced")
    assert {plot.file for plot in result.plots} == {"accuracy.svg", "loss.svg"}
    assert all((tmp_path / "record" / plot.file).is_file() for plot in result.plots)
    assert "run 40 of 40: rcla, seed 2" in capsys.readouterr().err
