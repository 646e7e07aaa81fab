"""A client's round is a part of the run that `lopsided train` would make."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lopsided import METHODS
from lopsided.federated.factors import advance_to, load_trained
from lopsided.federated.local_training import client_config, train_round
from lopsided.runs import train
from lopsided.runs.inputs import load_inputs
from lopsided.runs.preflight import total_steps
from lopsided.runs.prepare import prepare, save_trained
from tests.runs.test_resume import saved
from tests.tiny_runs import SIZES, tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")
ROUNDS = 3
OTHERS = ["c3la", "bernoulli", "asym_b", "full", "head", "cola", "relora"]


def configured(tmp_path, bert, words, method):
    chained = METHODS[method].chain is not None
    links = ROUNDS if chained else None
    options = {"model": bert, "task": words, "method": method, "steps": None, "evaluations": 1}
    return tiny_config(tmp_path / "server", **options, epochs=float(ROUNDS), links=links)


def standing(config):
    """The rows, and the server's model before its first round."""
    inputs = load_inputs(config)
    steps = total_steps(config, SIZES["train"])
    return inputs.data, prepare(inputs.model, config.resolve_method(), inputs.data.task, config, steps)


def of_client(config, folder):
    run = dataclasses.replace(config, links=None, epochs=None)
    return client_config(run, index=0, rows=SIZES["train"], rounds=ROUNDS, local_epochs=1, out=folder)


def go_on(model, config, number, tensors):
    if config.resolve_method().chain is not None:
        advance_to(model, number)
    load_trained(model, tensors)


@pytest.mark.parametrize("method", ["rac_b", "lora", *(pytest.param(name, marks=pytest.mark.more) for name in OTHERS)])
def test_one_client_with_one_local_epoch_is_the_run_of_train_to_the_bit(tmp_path, bert, words, method):
    config = configured(tmp_path, bert, words, method)
    client = of_client(config, tmp_path / "client")
    train(dataclasses.replace(config, links=None, every=client.every, out=tmp_path / "alone"))
    data, model = standing(config)
    for number in range(ROUNDS):
        go_on(model, config, number, train_round(model, data, client, number=number, rounds=ROUNDS).tensors)
    save_trained(model, config.resolve_method(), tmp_path / "server" / "adapter")
    mine, theirs = saved(tmp_path / "server"), saved(tmp_path / "alone")
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_round_that_is_asked_for_again_is_the_same_and_leaves_the_model_as_it_was(tmp_path, bert, words):
    config = configured(tmp_path, bert, words, "rac_b")
    client, (data, model) = of_client(config, tmp_path / "client"), standing(config)
    go_on(model, config, 0, train_round(model, data, client, number=0, rounds=ROUNDS).tensors)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = train_round(model, data, client, number=1, rounds=ROUNDS)
    again = train_round(model, data, client, number=1, rounds=ROUNDS)
    assert all(torch.equal(first.tensors[name], tensor) for name, tensor in again.tensors.items())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert (first.examples, first.steps, first.loss) == (SIZES["train"], 4, again.loss)


def test_who_joins_late_begins_at_the_learning_rate_of_the_others(tmp_path, bert, words):
    config = configured(tmp_path, bert, words, "rac_b")
    data, model = standing(config)
    go_on(
        model, config, 0, train_round(model, data, of_client(config, tmp_path / "a"), number=0, rounds=ROUNDS).tensors
    )
    late = train_round(model, data, of_client(config, tmp_path / "late"), number=1, rounds=ROUNDS)
    there = train_round(model, data, of_client(config, tmp_path / "a"), number=1, rounds=ROUNDS)
    rate = {
        name: torch.load(folder / "checkpoints" / "checkpoint-8" / "scheduler.pt")["_last_lr"]
        for name, folder in {"late": tmp_path / "late", "there": tmp_path / "a"}.items()
    }
    assert rate["late"] == rate["there"]
    # Its head's optimizer begins afresh, so that it is not the same client.
    assert any(not torch.equal(late.tensors[name], tensor) for name, tensor in there.tensors.items())
