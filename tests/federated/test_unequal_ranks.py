"""Clients of lower rank: what they train and send, what the average means, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")

from lopsided import LopsidedError
from lopsided.federated import local_training
from lopsided.federated.averaging import average
from lopsided.federated.factors import load_trained, row_axis, trained_tensors
from lopsided.federated.federation import FederationConfig, FederationPlan, settings_there
from lopsided.federated.first_rows import FrozenRows, cut_rows
from lopsided.federated.flat_settings import flat, from_flat
from lopsided.federated.messages import FACTORS, FIGURES, tensors_of, wire_bytes
from lopsided.federated.round_log import RoundLog
from lopsided.federated.round_scores import RoundScores
from lopsided.federated.server_rounds import LOG
from lopsided.federated.unequal_ranks import ranks_of_factors
from lopsided.report.federated_page import BY_ROW, write_federated_page
from tests.federated.local_grid import LocalGrid
from tests.federated.rounds import SINGLE_FACTOR_CHAINS, R, adapted, delta_of, random_like, shapes_of, updates_for
from tests.federated.test_federation import assert_same_weights, configured, federated, replayed
from tests.federated.test_local_training import configured as one_run
from tests.federated.test_local_training import of_client, standing
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")


def of_rank(update, rank):
    """An update as a client of this rank sends it."""
    ranks = ranks_of_factors(rank, shapes_of(update.tensors))
    return dataclasses.replace(update, tensors=cut_rows(update.tensors, ranks), ranks=ranks)


def with_row_alone(tensors, row):
    """The tensors with one row of each factor, and zeros in the others."""
    kept = {}
    for name, tensor in tensors.items():
        kept[name] = tensor
        if (axis := row_axis(name)) is not None:
            kept[name] = torch.zeros_like(tensor)
            kept[name].select(axis, row).copy_(tensor.select(axis, row))
    return kept


@pytest.mark.parametrize("method", SINGLE_FACTOR_CHAINS)
def test_the_average_is_that_of_each_rows_share_of_the_change_of_weights(method):
    server, ranks = adapted(method), (1, 2, R)
    updates = updates_for(server)
    sent = [of_rank(update, rank) for update, rank in zip(updates, ranks)]
    averaged = average(sent, shapes_of(updates[0].tensors), start=trained_tensors(server))
    # By hand: ΔW is a sum of one matrix per row of the sketch, and each is averaged over those who have it.
    expected = dict.fromkeys(delta_of(server, averaged), 0.0)
    for row in range(R):
        who = [update for update, rank in zip(updates, ranks) if rank > row]
        total = sum(update.examples for update in who)
        for update in who:
            for name, delta in delta_of(server, with_row_alone(update.tensors, row)).items():
                expected[name] = expected[name] + update.examples / total * delta.double()
    for name, delta in delta_of(server, averaged).items():
        assert float(expected[name].abs().max()) > 1e-2
        assert torch.allclose(delta.double(), expected[name], atol=1e-6)


def test_a_scale_of_each_clients_own_rank_would_not_average_to_the_change_of_weights():
    """Why s is alpha/R for everybody: with alpha/r_m, clients that moved W alike would not agree."""
    server = adapted("rac_b")
    one = updates_for(server, clients=1)[0]
    low = dataclasses.replace(of_rank(one, 2), client="low")
    whole = dataclasses.replace(one, tensors={n: t.clone() for n, t in one.tensors.items()})
    for name in low.ranks:
        # Both move W by the same ΔW, that of the first two rows.
        whole.tensors[name].narrow(row_axis(name), 2, R - 2).zero_()
    both = average([whole, low], shapes_of(one.tensors), start=trained_tensors(server))
    own_scale = dataclasses.replace(
        low, tensors={n: t * (2 / R) if n in low.ranks else t for n, t in low.tensors.items()}
    )
    other = average([whole, own_scale], shapes_of(one.tensors), start=trained_tensors(server))
    expected = delta_of(server, whole.tensors)
    for name, delta in expected.items():
        assert torch.allclose(delta_of(server, both)[name], delta, atol=1e-6)
        assert torch.allclose(delta_of(server, other)[name], 0.75 * delta, atol=1e-6)


def test_the_first_rows_of_a_window_train_as_an_adapter_of_that_rank_does(tmp_path, bert, words):
    """The slow oracle: a client of rank 2 in a federation of rank 4, against rank 2 by itself at the same s."""
    sent = {}
    for rank, alpha, cut in ((4, 8.0, 2), (2, 4.0, None)):
        config = dataclasses.replace(one_run(tmp_path / str(rank), bert, words, "cla"), rank=rank, alpha=alpha)
        data, model = standing(config)
        client = of_client(config, tmp_path / f"client-{rank}")
        sent[rank] = local_training.train_round(model, data, client, number=0, rounds=3, rank=cut).tensors
    for name, tensor in sent[2].items():
        assert tensor.shape == sent[4][name].shape
        assert float(tensor.abs().max()) > 1e-3
        assert torch.allclose(sent[4][name], tensor, atol=1e-5), name


def test_rows_that_others_trained_stay_in_a_client_next_to_weight_decay(tmp_path, bert, words, monkeypatch):
    seen = []

    class Watched(FrozenRows):
        def __init__(self, model, ranks):
            super().__init__(model, ranks)
            seen.extend((rows, rows.clone()) for rows in self._rows)

    monkeypatch.setattr(local_training, "FrozenRows", Watched)
    config = dataclasses.replace(one_run(tmp_path, bert, words, "asym_b"), weight_decay=0.5)
    data, model = standing(config)
    load_trained(model, random_like(trained_tensors(model), seed=3))
    start = trained_tensors(model)
    client = of_client(config, tmp_path / "client")
    sent = local_training.train_round(model, data, client, number=0, rounds=3, rank=2).tensors
    assert len(seen) > 10
    assert all(before.any() and torch.equal(after, before) for after, before in seen)
    trained = [name for name in sent if row_axis(name) is not None]
    assert all(not torch.equal(sent[name], start[name].narrow(row_axis(name), 0, 2)) for name in trained)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, bert, words):
    """Two rounds of ranks 4 and 2: the configuration, the run, and the answers of both clients in training."""
    out, answers = tmp_path_factory.mktemp("mixed") / "run", []

    def heard(message, answer):
        if message.metadata.message_type == "train":
            answers.append(answer)
        return [answer]

    config = configured(out, bert, words, ranks=(4, 2))
    return config, federated(config, LocalGrid(out.parent / "clients", 2, heard)), answers


def test_a_federation_of_unequal_ranks_replays_to_the_servers_bits(mixed, tmp_path):
    config, run, answers = mixed
    replayed(config).save_pretrained(tmp_path / "adapter")
    assert_same_weights(tmp_path, run.folder)
    averaged = RoundLog.open(run.folder / LOG).tensors(1)
    whole, low = (tensors_of(answer.content) for answer in answers[:2])
    for name, tensor in averaged.items():
        if (axis := row_axis(name)) is None:
            continue
        assert (whole[name].shape[axis], low[name].shape[axis]) == (4, 2)
        # Nobody but the first client has trained the last rows, and 32 rows each weigh the same in the others.
        assert torch.equal(tensor.narrow(axis, 2, 2), whole[name].narrow(axis, 2, 2))
        mean = (whole[name].narrow(axis, 0, 2).double() + low[name].double()) / 2
        assert torch.equal(tensor.narrow(axis, 0, 2), mean.float())


def test_half_the_rank_is_half_the_upload_and_the_page_says_who_has_it(mixed, tmp_path):
    _, run, answers = mixed
    whole, low = (wire_bytes(answer) for answer in answers[:2])
    # What describes an array does not shrink, and is most of these small ones.
    numbers = [sum(array.numpy().nbytes for array in a.content.array_records[FACTORS].values()) for a in answers[:2]]
    assert numbers[1] * 2 == numbers[0]
    assert whole[FACTORS] - low[FACTORS] == pytest.approx(numbers[1], rel=0.02)
    assert low["heads"] == whole["heads"]
    for entry in RoundScores.read(run.folder).rounds:
        assert {name: figures.rank for name, figures in entry.clients.items()} == {"client-0": None, "client-1": 2}
    page = write_federated_page([run.folder], tmp_path / "page.html").read_text(encoding="utf-8")
    assert BY_ROW in page
    assert "ranks: client-0 full, client-1 2" in page


def test_a_node_states_its_own_rank_and_factors_may_be_rounded_too(tmp_path, bert, words):
    config = configured(tmp_path / "run", bert, words, rounds=1, wire_dtype="bfloat16")
    run = federated(config, LocalGrid(tmp_path / "clients", 2, own={1: {"rank": 1}}))
    [entry] = RoundScores.read(run.folder).rounds
    assert (entry.clients["client-0"].rank, entry.clients["client-1"].rank) == (None, 1)
    replayed(config).save_pretrained(tmp_path / "adapter")
    assert_same_weights(tmp_path, run.folder)


@pytest.mark.parametrize(
    ("own", "match"),
    [
        ({"rank": 5}, "client 0 has rank 5; expected 1 to the server's, 4"),
        ({"rank": 0}, "client 0 has rank 0; expected 1"),
        ({"rank": "two"}, "expected rank, a whole number from 1, in the node's configuration, got 'two'"),
    ],
)
def test_a_node_of_a_rank_that_cannot_be_takes_no_part(tmp_path, bert, words, own, match):
    config = configured(tmp_path / "run", bert, words, rounds=1, clients=1)
    with pytest.raises(LopsidedError, match=f"no client can take part: {match}"):
        federated(config, LocalGrid(tmp_path / "clients", 1, own={0: own}))


def test_an_answer_whose_rank_is_not_that_of_its_factors_is_not_averaged(tmp_path, bert, words):
    lies = {1: (9, "its answer has rank 9; expected 1 to"), 2: (3, "has shape"), 3: (1.5, "its rank is 1.5; expected")}

    def lying(message, answer):
        client = message.metadata.dst_node_id - 2
        if message.metadata.message_type == "train" and client in lies:
            answer.content.metric_records[FIGURES]["rank"] = lies[client][0]
        return [answer]

    config = configured(tmp_path / "run", bert, words, rounds=1, clients=4, ranks=(4, 2, 2, 2))
    run = federated(config, LocalGrid(tmp_path / "clients", 4, lying))
    [record] = RoundLog.open(run.folder / LOG).rounds
    assert record.examples.keys() == {"client-0"}
    for client, (_, reason) in lies.items():
        assert reason in record.refused[f"client-{client}"]


@pytest.mark.parametrize(
    ("method", "ranks", "match"),
    [
        ("rac_b", (4,), "ranks has 1 numbers for 2 clients"),
        ("rac_b", (4, 2, 2), "ranks has 3 numbers for 2 clients"),
        ("rac_b", (4, 0), "client 1 has rank 0; expected 1 to the server's, 4"),
        ("rac_b", (8, 4), "client 0 has rank 8; expected 1 to the server's, 4"),
        ("rac_b", (2, 1), "no client trains rows 3 to 4 of the sketch"),
        ("lora", (4, 2), "client 1 has rank 2 below the server's, 4, and method 'lora' trains A and B"),
        ("cola", (4, 2), "trains A and B"),
        ("full", (4, 2), "trains all weights"),
        ("head", (4, 2), "trains the head alone"),
    ],
)
def test_ranks_that_cannot_be(tmp_path, method, ranks, match):
    run = tiny_config(tmp_path, method=method, steps=None)
    with pytest.raises(LopsidedError, match=match):
        FederationConfig(run=run, clients=2, ranks=ranks)


def test_ranks_come_back_from_an_apps_configuration_and_from_a_plan(tmp_path):
    run = tiny_config(tmp_path, method="c3la", steps=None)
    config = FederationConfig(run=run, clients=2, ranks=(4, 1))
    assert flat(config)["ranks"] == "4,1"
    assert from_flat(flat(config)) == config
    model = adapted("c3la")
    header = RoundLog.begin(tmp_path / "log", model, run="a", method="c3la", seed=0).header
    plan = FederationPlan.from_text(FederationPlan.of(config, header, ("no", "yes")).to_text())
    assert plan.config(tmp_path) == config
    # The folder of an earlier version does not know of them.
    assert settings_there({"clients": 2}) == FederationConfig(run=run, clients=2).settings()
