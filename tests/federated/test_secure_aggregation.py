"""Secure aggregation: Flower's SecAgg+ carries our messages, the sum is exact to its steps, and who is missing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")

from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key

from lopsided import LopsidedError
from lopsided.federated import client_app
from lopsided.federated.clipping import flat_norm, update_of
from lopsided.federated.factors import trained_tensors
from lopsided.federated.federation import FederationConfig
from lopsided.federated.round_log import RoundLog
from lopsided.federated.round_scores import RoundScores
from lopsided.federated.secure_answers import step_size
from lopsided.federated.server_rounds import LOG
from lopsided.federated.strategy import LATE
from tests.federated.local_grid import LocalGrid
from tests.federated.masked_grid import MaskedGrid
from tests.federated.test_federation import configured, federated, replayed
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")
CLIP = 0.5


def masked(out, bert, words, **more):
    settings = {"rounds": 1, "clients": 4, "allow_missing": True, "clipping_norm": CLIP, **more}
    return configured(out, bert, words, secure_aggregation=True, **settings)


def hearing(monkeypatch):
    """The updates that clients give to be masked, in order."""
    updates = []
    keep = client_app.update_records

    def listen(update):
        updates.append({name: tensor.clone() for name, tensor in update.items()})
        return keep(update)

    monkeypatch.setattr(client_app, "update_records", listen)
    return updates


def test_the_server_gets_the_mean_to_a_step_and_no_clients_update(tmp_path, bert, words, monkeypatch):
    updates, config = hearing(monkeypatch), masked(tmp_path / "run", bert, words, rounds=2)
    grid = MaskedGrid(tmp_path / "clients", 4)
    run = federated(config, grid)
    log, step = RoundLog.open(run.folder / LOG), step_size(CLIP)
    start = trained_tensors(replayed(config, 0))
    for name, tensor in log.tensors(1).items():
        mean = sum(each[name] for each in updates[:4]) / 4
        # The average is rounded to float32, next to the head that it starts from.
        error = (tensor.double() - start[name].double() - mean).abs().max()
        assert 0 < float(error) < step + 2**-24 * float(tensor.abs().max()), name
    for update in updates:
        assert flat_norm(update) <= CLIP
    # What is sent is spread over all 32 bits, and no record has anything else in it.
    for answer in grid.heard:
        assert not any(record for record in answer.content.array_records.values())
        sent = answer.content.config_records[RECORD_KEY_CONFIGS][Key.MASKED_PARAMETERS]
        numbers = np.concatenate([bytes_to_ndarray(each).ravel() for each in sent])
        assert np.abs(np.histogram(numbers, bins=8, range=(0, 2**32))[0] / numbers.size - 1 / 8).max() < 0.03
    # Masked numbers have 8 bytes; what else is sent is small.
    up, count = RoundScores.read(run.folder).rounds[-1].up, sum(tensor.numel() for tensor in start.values())
    assert 8 * 8 * count < up["factors"] < 8 * 8 * count + 8 * 200 * (len(start) + 1)
    # In the second round, too, clients stand where the server stands.
    assert len(log.rounds) == 2
    assert [each.score is not None for each in RoundScores.read(run.folder).rounds] == [True, True]
    assert log.rounds[1].examples == dict.fromkeys(("client-0", "client-1", "client-2", "client-3"), 16)


def missing(node, at):
    return lambda message, stage: (message.metadata.dst_node_id, stage) != (node, at)


@pytest.mark.parametrize("stage", ["collect_masked_vectors", pytest.param("unmask", marks=pytest.mark.more)])
def test_of_five_clients_one_may_be_missing(tmp_path, bert, words, monkeypatch, stage):
    updates, config = hearing(monkeypatch), masked(tmp_path / "run", bert, words, clients=5)
    run = federated(config, MaskedGrid(tmp_path / "clients", 5, missing(3, stage)))
    [record] = RoundLog.open(run.folder / LOG).rounds
    # Who has sent its masked update is in the sum, even if it does not help to unmask it.
    assert len(updates) == len(record.examples) == (5 if stage == "unmask" else 4)
    assert record.refused == ({} if stage == "unmask" else {"client-1": LATE})
    start, after = trained_tensors(replayed(config, 0)), RoundLog.open(run.folder / LOG).tensors(1)
    mean = {name: sum(each[name] for each in updates) / len(updates) for name in start}
    assert flat_norm(update_of(after, {name: start[name].double() + mean[name] for name in start})) < 1e-3 * CLIP


@pytest.mark.parametrize("stage", [pytest.param("setup", marks=pytest.mark.more), "collect_masked_vectors"])
def test_without_enough_clients_there_is_no_sum_and_nothing_is_lost(tmp_path, bert, words, stage):
    config = masked(tmp_path / "run", bert, words)
    grid = MaskedGrid(tmp_path / "clients", 4, missing(3, stage))
    with pytest.raises(LopsidedError, match=r"round 1: secure aggregation ended without a sum .*; expected the"):
        federated(config, grid)
    assert not RoundLog.open(config.run.out / LOG).rounds


@pytest.mark.more
def test_a_client_that_cannot_train_is_left_out_with_its_reason(tmp_path, bert, words, monkeypatch):
    update_to_mask = client_app._update_to_mask

    def broken(client, trained):
        if client.place.index == 2:
            name = next(iter(trained.tensors))
            tensors = {**trained.tensors, name: torch.full_like(trained.tensors[name], torch.nan)}
            trained = dataclasses.replace(trained, tensors=tensors)
        return update_to_mask(client, trained)

    monkeypatch.setattr(client_app, "_update_to_mask", broken)
    run = federated(masked(tmp_path / "run", bert, words, clients=5), MaskedGrid(tmp_path / "clients", 5))
    [record] = RoundLog.open(run.folder / LOG).rounds
    assert "NaN or Inf; nothing is sent" in record.refused["client-2"]
    assert len(record.examples) == 4


@pytest.mark.more
def test_noise_comes_on_top_of_the_sum(tmp_path, bert, words, monkeypatch):
    pytest.importorskip("dp_accounting", reason="dp-accounting, of the extra dp, is not installed")
    updates = hearing(monkeypatch)
    config = masked(tmp_path / "run", bert, words, noise_multiplier=2.0, delta=1e-3)
    run = federated(config, MaskedGrid(tmp_path / "clients", 4))
    start, after = trained_tensors(replayed(config, 0)), RoundLog.open(run.folder / LOG).tensors(1)
    mean = {name: sum(each[name] for each in updates) / 4 for name in start}
    noise = update_of(after, {name: start[name].double() + mean[name] for name in start})
    numbers = torch.cat([each.flatten() for each in noise.values()])
    assert float(numbers.std()) == pytest.approx(2.0 * CLIP / 4, rel=6 / (2 * numbers.numel()) ** 0.5)


def test_a_plan_with_masks_is_never_answered_without(tmp_path, bert, words, monkeypatch):
    config = masked(tmp_path / "run", bert, words)
    # A server that asks in plain words.
    asking = "lopsided.federated.strategy.FactorAveraging._secure_round"

    def plainly(strategy, grid):
        messages = strategy.configure_train(1, None, None, grid)
        strategy.aggregate_train(1, grid.send_and_receive(messages))

    monkeypatch.setattr(asking, plainly)
    with pytest.raises(LopsidedError, match="secure_aggregation=True, as the plan says, got False"):
        federated(config, LocalGrid(tmp_path / "clients", 4))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"clipping_norm": None}, "secure_aggregation without a clipping_norm"),
        ({"clients": 3}, "secure_aggregation with 3 clients; expected 4 to 1000"),
        ({"clients": 1001}, "secure_aggregation with 1001 clients; expected 4 to 1000"),
        ({"weighting": "examples"}, "secure_aggregation with weighting=examples; expected equal weights"),
    ],
)
def test_what_masks_cannot_carry_is_refused_in_a_line(tmp_path, changes, match):
    settings = {"clients": 4, "clipping_norm": 1.0, "secure_aggregation": True}
    with pytest.raises(LopsidedError, match=match):
        FederationConfig(run=tiny_config(tmp_path, steps=None), **{**settings, **changes})
