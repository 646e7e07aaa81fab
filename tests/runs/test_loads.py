"""A run loads its rows once and its model once, and reads neither to learn what a configuration says."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import PreTrainedModel

from lopsided.runs import inputs, load_data, load_inputs, train
from lopsided.runs.reload import data_of, reload
from lopsided.study import CompareConfig, compare
from tests.tiny_runs import tiny_config


@pytest.fixture
def loads(monkeypatch) -> Counter:
    """How many models and tasks are loaded from now on."""
    counts: Counter = Counter()
    load_task, from_pretrained = inputs.load_task, PreTrainedModel.from_pretrained.__func__

    def counting_task(*args, **kwargs):
        counts["task"] += 1
        return load_task(*args, **kwargs)

    def counting_model(kind, *args, **kwargs):
        counts["model"] += 1
        return from_pretrained(kind, *args, **kwargs)

    monkeypatch.setattr(inputs, "load_task", counting_task)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(counting_model))
    return counts


@pytest.mark.parametrize("method", ["cla", "full"])
def test_a_run_loads_its_model_and_its_rows_once(tmp_path, bert, words, loads, method):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method=method, steps=2, evaluations=1)
    run = train(config)
    assert loads == {"model": 1, "task": 1}
    train(config, resume=True)
    assert loads == {"model": 1, "task": 1}
    reload(run.folder)
    assert loads == {"model": 2, "task": 1}


def test_rows_are_loaded_without_a_model(run_once, tmp_path, bert, t5, words, phrases, loads):
    assert not load_data(tiny_config(tmp_path, model=bert, task=words)).seq2seq
    assert load_data(tiny_config(tmp_path, model=t5, task=phrases)).seq2seq
    assert loads == {"task": 2}


def test_rows_are_the_same_with_and_without_the_model(tmp_path, t5, phrases):
    config = tiny_config(tmp_path, model=t5, task=phrases)
    alone, together = load_data(config), load_inputs(config).data
    assert alone.seq2seq == together.seq2seq
    for split, rows in alone.encoded.splits.items():
        assert rows.to_dict() == together.encoded.splits[split].to_dict()


def test_the_rows_of_a_run_are_read_as_it_read_them(run_once, bert, scores, loads):
    folder, _ = run_once(model=bert, task=scores, method="cla")
    loads.clear()
    run = train(tiny_config(folder, model=bert, task=scores, method="cla"), resume=True)
    data = data_of(run)
    assert loads == {"task": 1}
    assert (data.task.kind, data.task.metric.name) == ("regression", "pearson")


def test_a_comparison_loads_its_rows_once_and_one_model_per_seed(tmp_path, bert, words, loads):
    shared = tiny_config(tmp_path / "out", model=bert, task=words, method="lora", steps=2, evaluations=1)
    config = CompareConfig(run=shared, methods=("cla", "lora"), seeds=(3, 4))
    assert not compare(config).failed
    assert loads == {"model": 2, "task": 1}
    compare(config, resume=True)
    assert loads == {"model": 2, "task": 2}


def test_the_first_run_of_a_comparison_is_the_run_alone(tmp_path, bert, words):
    shared = tiny_config(tmp_path / "out", model=bert, task=words, method="lora", steps=4, evaluations=1)
    config = CompareConfig(run=shared, methods=("cla", "lora"), seeds=(3,))
    compare(config)
    for name in config.methods:
        alone = train(tiny_config(tmp_path / name, **{**config.config_of(name, 3).to_json()}))
        together = train(config.config_of(name, 3), resume=True)
        assert alone.losses("validation") == together.losses("validation")
        assert alone.metrics == together.metrics


def test_equal_configurations_give_equal_bits(tmp_path, bert, words):
    torch.manual_seed(1)
    first = load_inputs(tiny_config(tmp_path, model=bert, task=words, seed=5)).model.state_dict()
    torch.manual_seed(2)
    second = load_inputs(tiny_config(tmp_path, model=bert, task=words, seed=5)).model.state_dict()
    other = load_inputs(tiny_config(tmp_path, model=bert, task=words, seed=6)).model.state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])
