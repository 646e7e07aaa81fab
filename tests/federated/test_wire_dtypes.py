"""Factors in bfloat16 on the wire: half the bytes, and the same bits with the server, its log and its clients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")

from flwr.app import Array, Message, RecordDict

from lopsided import LopsidedError
from lopsided.federated import client_standing
from lopsided.federated.factors import head_names, trained_tensors
from lopsided.federated.federation import FederationConfig
from lopsided.federated.flat_settings import flat, from_flat
from lopsided.federated.messages import FACTORS, tensor_records, tensors_of, wire_bytes
from lopsided.federated.round_log import RoundLog
from lopsided.federated.round_scores import RoundScores
from lopsided.federated.server_rounds import LOG
from lopsided.federated.wire_dtypes import as_received
from tests.federated.local_grid import LocalGrid, identify
from tests.federated.rounds import adapted, delta_of, random_like
from tests.federated.test_federation import (
    assert_same_weights,
    configured,
    cut_before_the_last_scores,
    federated,
    replayed,
)
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@given(values=st.lists(FLOATS, min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_what_is_sent_arrives_as_the_nearest_number_of_8_bits(values):
    sent = torch.tensor(values)
    content = RecordDict(tensor_records({"B": sent, "head": sent}, ["head"], dtype="bfloat16"))
    read = tensors_of(content, dtype="bfloat16")
    assert torch.equal(read["head"], sent)
    assert read["B"].dtype == torch.float32
    assert bool(((read["B"] - sent).abs() <= 2.0**-8 * sent.abs()).all())
    # The low half of each number is empty, and what has arrived is sent on without another rounding.
    assert not (read["B"].numpy().view(np.int32) & 0xFFFF).any()
    assert torch.equal(as_received(read, ["head"], "bfloat16")["B"], read["B"])


@pytest.mark.parametrize("method", ["rac_b", "c3la", "cola"])
def test_factors_are_half_the_bytes_and_heads_are_as_they_were(method):
    identify()
    model = adapted(method)
    tensors, sent = random_like(trained_tensors(model), seed=1), {}
    for dtype in ("float32", "bfloat16"):
        content = RecordDict(tensor_records(tensors, head_names(model), dtype=dtype))
        sent[dtype] = wire_bytes(Message(content, dst_node_id=2, message_type="train"))
        numbers = sum(array.numpy().nbytes for array in content.array_records[FACTORS].values())
        size = {"float32": 4, "bfloat16": 2}[dtype]
        assert numbers == size * sum(t.numel() for name, t in tensors.items() if name not in head_names(model))
        sent[dtype]["numbers"] = numbers
    assert sent["bfloat16"]["heads"] == sent["float32"]["heads"]
    saved = sent["float32"]["factors"] - sent["bfloat16"]["factors"]
    # What describes an array is as long, but for the name of its dtype.
    assert 0 <= saved - sent["bfloat16"]["numbers"] <= 4 * len(tensors)


def test_a_rounds_change_of_weights_is_rounded_by_no_more_than_its_factor():
    server = adapted("rac_b")
    tensors = random_like(trained_tensors(server), seed=2)
    exact = delta_of(server, tensors)
    rounded = delta_of(server, as_received(tensors, head_names(server), "bfloat16"))
    for name, delta in exact.items():
        error = float((rounded[name] - delta).norm() / delta.norm())
        assert 1e-4 < error < 2.0**-8


@pytest.fixture(scope="module")
def sent(tmp_path_factory, bert, words):
    """Two rounds in bfloat16, and what the server's process had as the clients' model at their end."""
    out, answers = tmp_path_factory.mktemp("bf16") / "run", []

    def heard(message, answer):
        if message.metadata.message_type == "train":
            answers.append(answer)
        return [answer]

    config = configured(out, bert, words, wire_dtype="bfloat16")
    run = federated(config, LocalGrid(out.parent / "clients", 2, heard))
    [standing] = client_standing._standing.values()
    return config, run, answers, standing.model


def test_server_log_and_clients_have_the_same_bits(sent, tmp_path):
    config, run, answers, model = sent
    again = replayed(config)
    again.save_pretrained(tmp_path / "adapter")
    assert_same_weights(tmp_path, run.folder)
    mine, theirs = again.state_dict(), model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
    heads, averaged = head_names(again), RoundLog.open(run.folder / LOG).tensors(1)
    first, second = (tensors_of(answer.content, dtype="bfloat16") for answer in answers[:2])
    for name, tensor in averaged.items():
        # By hand: clients with 32 rows each; the mean is exact in float64.
        mean = ((first[name].double() + second[name].double()) / 2).float()
        assert torch.equal(tensor, mean if name in heads else mean.to(torch.bfloat16).float())
        assert name in heads or tensor.any()


def test_who_joins_late_has_the_same_bits(sent, bert, words, tmp_path):
    config, run, _, _ = sent
    ended = configured(tmp_path / "run", bert, words, wire_dtype="bfloat16")
    cut_before_the_last_scores(run, ended)
    federated(ended, LocalGrid(tmp_path / "clients", 2), resume=True)
    [standing] = client_standing._standing.values()
    mine, theirs = trained_tensors(standing.model), trained_tensors(replayed(config))
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
    assert RoundScores.read(ended.run.out).rounds[-1].score == RoundScores.read(run.folder).rounds[-1].score


def test_both_ways_are_counted_at_half(sent):
    config, run, _, _ = sent
    shapes = RoundLog.open(run.folder / LOG).header.shapes
    count = sum(torch.Size(shape).numel() for name, shape in shapes.items() if "modules_to_save" not in name)
    last = RoundScores.read(run.folder).rounds[-1]
    for way in (last.up, last.down):
        # Two clients, two rounds, two bytes.
        assert 8 * count < way["factors"] < 8 * count + 4 * len(shapes) * 800
    assert RoundScores.read(run.folder).settings["wire_dtype"] == config.wire_dtype == "bfloat16"


def test_an_answer_in_another_dtype_is_not_averaged(tmp_path, bert, words):
    def wide(message, answer):
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 3:
            record = answer.content.array_records[FACTORS]
            name = sorted(record)[0]
            record[name] = Array(np.zeros(record[name].numpy().shape, np.float32))
        return [answer]

    config = configured(tmp_path / "run", bert, words, rounds=1, wire_dtype="bfloat16")
    run = federated(config, LocalGrid(tmp_path / "clients", 2, wide))
    [record] = RoundLog.open(run.folder / LOG).rounds
    assert "is an array of float32, expected int16 for bfloat16" in record.refused["client-1"]


@pytest.mark.parametrize("method", ["lora", "asym_b", "full", "head"])
def test_without_a_chain_rounding_is_refused(tmp_path, method):
    run = tiny_config(tmp_path, method=method, steps=None)
    with pytest.raises(LopsidedError, match="small changes would be lost; expected a method with a chain"):
        FederationConfig(run=run, clients=2, wire_dtype="bfloat16")
    assert FederationConfig(run=run, clients=2).wire_dtype == "float32"


def test_the_dtype_is_a_setting_of_the_app(tmp_path):
    config = FederationConfig(run=tiny_config(tmp_path, method="rac_b", steps=None), wire_dtype="bfloat16")
    assert from_flat(flat(config)) == config
    with pytest.raises(LopsidedError, match="unknown wire_dtype 'bf16'; expected one of float32, bfloat16"):
        dataclasses.replace(config, wire_dtype="bf16")
