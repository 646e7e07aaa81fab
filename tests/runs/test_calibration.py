"""Runs of methods that read data: what they read, what the record says, and that going on needs no data again."""

from __future__ import annotations

import json

import pytest
import torch

from lopsided import METHODS, LopsidedError
from lopsided.advise.first_rate import first_rate
from lopsided.runs import calibration, finished_run, load_inputs, session, train
from lopsided.runs.calibration import ROWS
from lopsided.runs.needs import time_probe
from lopsided.runs.reload import reload
from lopsided.study.costs import measure_costs
from lopsided.tuner import layers_of
from tests.runs.test_resume import assert_same_run, cut_off, saved
from tests.tiny_runs import SIZES, tiny_config

pytestmark = pytest.mark.uncalibrated

READING = [name for name, method in METHODS.items() if method.reads_inputs]


@pytest.mark.parametrize("method", READING)
def test_a_run_reads_training_rows_and_says_so(tmp_path, bert, words, method, monkeypatch):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method=method)
    inputs, seen = load_inputs(config), []
    collator = type(inputs.data).collator
    monkeypatch.setattr(
        type(inputs.data), "collator", lambda data: lambda rows: (seen.append(rows), collator(data)(rows))[1]
    )
    facts = calibration.calibrated(
        session.prepare(inputs.model, METHODS[method], inputs.data.task, config, 30), config, inputs.data
    )
    monkeypatch.undo()
    ids = {tuple(row["input_ids"]) for rows in seen for row in rows}
    assert ids <= {tuple(row["input_ids"]) for row in inputs.data.encoded.splits["train"]}
    assert sum(map(len, seen)) == facts.rows == SIZES["train"] <= ROWS

    said: list[str] = []
    run = train(config, note=said.append)
    assert any(f"sketches drawn from {SIZES['train']} training rows" in text for text in said)
    assert (run.calibration.rows, run.calibration.seed, run.calibration.share) == (facts.rows, 0, facts.share)
    # Seven tokens a row: five words and two special ones.
    assert run.calibration.inputs == 7 * SIZES["train"]
    assert 4 / 32 < run.calibration.share <= 1.0
    record = json.loads((config.out / "run.json").read_text())
    assert set(record["calibration"]) == {"rows", "seed", "inputs", "layers", "moments", "share", "seconds"}
    # What is reloaded has the sketch that the run began with.
    loaded = layers_of(reload(config.out))
    assert len(loaded) == run.calibration.layers
    assert all(not layer.adapters["default"].uncalibrated for layer in loaded.values())


def test_other_runs_say_nothing(run_once, bert, words):
    folder, record = run_once(model=bert, task=words, method="cla")
    assert "calibration" not in record
    assert finished_run(folder).calibration is None


@pytest.mark.parametrize("method", READING)
def test_equal_runs_are_equal_and_the_seed_chooses_the_rows(tmp_path, bert, words, method, monkeypatch):
    monkeypatch.setattr(calibration, "ROWS", 16)
    runs = {
        name: train(tiny_config(tmp_path / name, model=bert, task=words, method=method, steps=2, seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    }
    first, second = saved(tmp_path / "a"), saved(tmp_path / "b")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert runs["a"].calibration.rows == 16
    assert runs["a"].calibration.share == runs["b"].calibration.share != runs["c"].calibration.share


@pytest.mark.parametrize("method", READING)
def test_a_run_that_goes_on_reads_no_data_for_its_sketch(tmp_path, bert, words, method, monkeypatch):
    options = {"model": bert, "task": words, "method": method}
    undisturbed = tiny_config(tmp_path / "undisturbed", **options)
    train(undisturbed)
    config = tiny_config(tmp_path / "run", **options)
    cut_off(config)
    before = json.loads((config.out / "run.json").read_text())["calibration"]

    def never(*args, **kwargs):
        raise AssertionError("read data")

    monkeypatch.setattr(calibration, "calibrate", never)
    train(config, resume=True)
    assert_same_run(config.out, undisturbed.out)
    assert finished_run(config.out).calibration.to_json() == before


def test_a_run_that_was_ended_before_its_first_checkpoint_begins_again(tmp_path, bert, words):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="ipa_b")
    cut_off(config, step=3)
    run = train(config, resume=True)
    assert run.calibration is not None


@pytest.mark.more
@pytest.mark.parametrize("method", READING)
def test_what_tries_a_method_calibrates_it(tmp_path, bert, words, method):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method=method)
    inputs = load_inputs(config)
    before = {name: p.clone() for name, p in inputs.model.named_parameters()}
    assert first_rate(config, inputs).value > 0
    assert all(torch.equal(p, before[name]) for name, p in inputs.model.named_parameters())
    costs = measure_costs(config, [method], rounds=2)
    assert [own.method for own in costs.methods] == [method]
    assert time_probe(config, inputs).step > 0


def test_too_few_rows_are_refused_in_one_line(tmp_path, bert, words, monkeypatch):
    monkeypatch.setattr(calibration, "ROWS", 3)
    # The pooler reads one token per row.
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="ipa_b", target_modules="all-linear")
    with pytest.raises(LopsidedError, match=r"r=4 directions.*has seen 3") as error:
        train(config)
    assert "\n" not in str(error.value)
