"""Costs of steps, on a tiny model: what is counted, and that the base is left alone; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lopsided import LopsidedError
from lopsided.baselines import BASELINES
from lopsided.files.strict_json import dumps
from lopsided.runs import TrainConfig, load_inputs
from lopsided.study.costs import CostTable, measure_costs

METHODS = ["lora", "cla", "full", "head"]


@pytest.fixture(scope="module")
def config(bert, words):
    return TrainConfig(model=bert, task=words, rank=4, batch_size=8, max_length=16, out=Path("unused"))


def test_every_method_has_a_line_and_the_base_its_bits(config):
    inputs = load_inputs(config)
    before = {name: tensor.clone() for name, tensor in inputs.model.state_dict().items()}
    state = torch.random.get_rng_state()
    costs = measure_costs(config, METHODS, rounds=3, inputs=inputs)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in inputs.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in inputs.model.parameters())
    assert [line.method for line in costs.methods] == METHODS
    assert (costs.rows, costs.training_rows, costs.rounds) == (8, 64, 3)
    for line in costs.methods:
        assert 0 < line.step_time.low <= line.step_time.value <= line.step_time.high
        assert line.kept_bytes > 0
        assert line.peak_bytes is line.seconds_per_epoch is None or torch.cuda.is_available()
    kept = {line.method: line.kept for line in costs.methods}
    # The head's way back is one layer long; cLA keeps the columns that it reads, LoRA the whole input.
    assert kept["head"] < kept["cla"] < kept["lora"]
    assert CostTable.from_json(json.loads(dumps(costs.to_json()))) == costs


@pytest.mark.more
def test_baselines_stand_next_to_ours_even_those_that_rewrite_the_base(config):
    inputs = load_inputs(config)
    before = {name: tensor.clone() for name, tensor in inputs.model.state_dict().items()}
    names = [f"peft:{name}" for name in BASELINES]
    costs = measure_costs(config, ["cla", *names], rounds=2, inputs=inputs)
    assert [line.method for line in costs.methods] == ["cla", *names]
    assert all(torch.equal(tensor, before[name]) for name, tensor in inputs.model.state_dict().items())
    [cla] = measure_costs(config, ["cla"], rounds=2, inputs=inputs).methods
    assert cla.kept_bytes == costs.methods[0].kept_bytes


def test_the_same_bytes_are_kept_whatever_else_takes_turns(config):
    alone, among = (measure_costs(config, names, rounds=2).methods[0].kept_bytes for names in (["cla"], METHODS[1:]))
    assert alone == among


@pytest.mark.parametrize(
    ("methods", "rounds", "message"),
    [
        ([], 3, "expected methods and at least 2 rounds, got 0 and 3"),
        (["cla"], 1, "got 1 and 1"),
        (["c3al"], 3, "unknown method 'c3al'"),
    ],
)
def test_bad_input(config, methods, rounds, message):
    with pytest.raises(LopsidedError, match=message):
        measure_costs(config, methods, rounds=rounds)


def test_a_rank_that_does_not_fit_is_named_before_any_step(bert, words):
    wide = TrainConfig(model=bert, task=words, rank=64, batch_size=8, max_length=16, out=Path("unused"))
    with pytest.raises(LopsidedError, match="rank must not exceed the layer's width"):
        measure_costs(wide, ["cla"], rounds=2)
