"""A folder says how to go on with it: its settings and its method's parts are in its record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import lopsided
from lopsided import METHODS, LopsidedError
from lopsided.runs import finished_run, read_run, resumed_config, train
from lopsided.study import CompareConfig, compare
from lopsided.study.comparison_settings import SETTINGS, resumed_settings
from tests.runs.test_resume import assert_same_run, cut_off
from tests.tiny_runs import tiny_config

SAMPLES = Path(__file__).parents[1] / "samples" / "0.1.0"
OWN = {"train": "B", "sketch": lopsided.Gaussian(), "chain": lopsided.Chain(links=2), "source": "this test"}


@pytest.fixture
def own_method():
    """A method of a user's, registered until the test forgets it."""
    lopsided.register("of_a_user", **OWN)
    yield "of_a_user"
    METHODS.pop("of_a_user", None)


def test_a_folder_is_enough_and_its_method_need_not_be_registered(tmp_path, bert, words, own_method):
    options = {"model": bert, "task": words, "method": own_method, "links": 4, "dropout": 0.1}
    whole = train(tiny_config(tmp_path / "whole", **options))
    config = tiny_config(tmp_path / "run", **options)
    cut_off(config)
    del METHODS[own_method]
    again = resumed_config(config.out)
    assert again == config
    train(again, resume=True)
    assert_same_run(config.out, whole.folder)


def test_another_method_of_the_same_name_is_refused(tmp_path, bert, words, own_method):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method=own_method)
    cut_off(config)
    del METHODS[own_method]
    lopsided.register(own_method, **{**OWN, "train": "A"})
    with pytest.raises(LopsidedError, match="holds a run of another method 'of_a_user' than the one"):
        train(resumed_config(config.out), resume=True)
    assert read_run(config.out).status == "failed"


def test_settings_that_are_given_must_be_the_runs_own(tmp_path, bert, words):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla")
    cut_off(config)
    assert resumed_config(config.out, {"rank": 4, "test_rows": None}) == config
    with pytest.raises(LopsidedError, match=r"holds a run with rank=4, asked 3; lr=0\.02, asked 0\.5; resume with its"):
        resumed_config(config.out, {"rank": 3, "lr": 0.5})
    # Nothing is lost of a run that has no checkpoint.
    shutil.rmtree(config.out / "checkpoints")
    assert resumed_config(config.out, {"rank": 3}).rank == 3


def test_nothing_to_resume_is_said_in_one_line(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(LopsidedError, match="holds nothing to resume; expected a run directory"):
            resumed_config(folder)
        with pytest.raises(LopsidedError, match="holds nothing to resume; expected the folder of a comparison"):
            resumed_settings(folder)


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """The runs of version 0.1.0, as a comparison has them."""
    for part in ("model", "task"):
        shutil.copytree(SAMPLES / part, tmp_path / part)
    shutil.copytree(SAMPLES / "runs", tmp_path / "out" / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


def test_runs_of_0_1_0_are_gone_on_with(sample):
    folder = sample / "runs" / "c3la"
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}))
    shutil.rmtree(folder / "checkpoints" / "checkpoint-8")
    shutil.rmtree(folder / "adapter")
    again = train(resumed_config(folder), resume=True)
    assert again.is_finished
    assert again.settings["method"] == "c3la"
    assert finished_run(sample / "runs" / "full").keeps_checkpoints


def test_a_comparison_of_0_1_0_that_is_over_says_what_it_was_asked_for(sample, bert, words):
    shared = tiny_config(sample, model=bert, task=words, method="lora", steps=2, evaluations=1)
    config = CompareConfig(run=shared, methods=("c3la", "head"), seeds=(3,), links=2)
    shutil.rmtree(sample)
    outcome = compare(config)
    # As version 0.1.0 left it.
    (sample / SETTINGS).unlink()
    assert CompareConfig(**resumed_settings(sample)).config_of("c3la", 3) == config.config_of("c3la", 3)
    again = compare(CompareConfig(**resumed_settings(sample)), resume=True)
    assert again.leaderboard.rows[0].cells["score"] == outcome.leaderboard.rows[0].cells["score"]
    (sample / "results.json").unlink()
    (sample / SETTINGS).unlink()
    with pytest.raises(LopsidedError, match="which does not say what it was asked for; give the options"):
        resumed_settings(sample)
