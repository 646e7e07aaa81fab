"""A whole federation on Flower's own classes, with messages that go straight to the clients, and its faults."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")

from flwr.app import Array, Message, RecordDict
from flwr.app.error import Error
from flwr.cli.config_utils import load_and_validate

from lopsided import LopsidedError
from lopsided.federated import client_standing
from lopsided.federated.app_folder import write_app
from lopsided.federated.factors import head_names, trained_tensors
from lopsided.federated.federation import FederationConfig
from lopsided.federated.flat_settings import flat, from_flat
from lopsided.federated.messages import FACTORS, FIGURES, tensor_records, wire_bytes
from lopsided.federated.round_log import RoundLog, replay
from lopsided.federated.round_scores import RoundScores
from lopsided.federated.server_rounds import LOG, serve
from lopsided.federated.strategy import LATE, FactorAveraging
from lopsided.report.federated_page import federated_rows, write_federated_page
from lopsided.runs.inputs import load_inputs
from lopsided.runs.preflight import total_steps
from lopsided.runs.prepare import prepare
from tests.federated.local_grid import LocalGrid, identify
from tests.federated.rounds import adapted, random_like
from tests.runs.test_resume import saved
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")


def configured(out, bert, words, *, rounds=2, clients=2, method="rac_b", **more):
    run = tiny_config(out, model=bert, task=words, method=method, steps=None, batch_size=32)
    return FederationConfig(run=run, clients=clients, rounds=rounds, **more)


def federated(config, grid, **more):
    client_standing.forget()
    return serve(config, lambda rounds: FactorAveraging(rounds).run(grid), **more)


@pytest.fixture(scope="module")
def done(tmp_path_factory, bert, words):
    """An undisturbed federation of two rounds: its configuration and its run."""
    out = tmp_path_factory.mktemp("federation") / "run"
    config, lines = configured(out, bert, words), []
    run = federated(config, LocalGrid(out.parent / "clients", 2), note=lines.append)
    return config, run, lines


def replayed(config, rounds=None):
    run = config.server_run
    inputs = load_inputs(run)
    steps = total_steps(run, len(inputs.data.encoded.splits["train"]))
    model = prepare(inputs.model, run.resolve_method(), inputs.data.task, run, steps)
    replay(RoundLog.open(run.out / LOG), model, rounds=rounds)
    return model


def cut_before_the_last_scores(run, ended):
    """Make the folder of `ended` that of a run whose server was killed after its last round."""
    shutil.copytree(run.folder, ended.run.out)
    record = json.loads((ended.run.out / "run.json").read_text())
    (ended.run.out / "run.json").write_text(json.dumps({**record, "status": "failed", "error": "cut"}))
    scores = RoundScores.read(ended.run.out)
    dataclasses.replace(scores, rounds=scores.rounds[:-1]).write(ended.run.out)


def assert_same_weights(folder, other):
    mine, theirs = saved(folder), saved(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def test_the_server_leaves_an_ordinary_run_with_its_rounds(done):
    _, run, lines = done
    assert run.is_finished
    assert run.method.name == "rac_b"
    assert (run.chain.links, len(run.chain.events)) == (2, 1)
    assert run.metrics["test"].score.value is not None
    assert [step for step, _ in run.losses("validation")] == [2, 4]
    assert [line.split(":")[0] for line in lines[-2:]] == ["round 1 of 2", "round 2 of 2"]
    scores = RoundScores.read(run.folder)
    assert [entry.number for entry in scores.rounds] == [1, 2]
    for entry in scores.rounds:
        assert entry.score is not None
        assert {name: figures.examples for name, figures in entry.clients.items()} == {"client-0": 32, "client-1": 32}


def test_seeds_and_averages_alone_give_the_servers_weights_to_the_bit(done, tmp_path):
    config, run, _ = done
    replayed(config).save_pretrained(tmp_path / "adapter")
    assert_same_weights(tmp_path, run.folder)


def test_a_norm_that_nobody_reaches_and_no_noise_change_no_bit(done, bert, words, tmp_path):
    _, plain, _ = done
    config = configured(tmp_path / "run", bert, words, clipping_norm=1e9, noise_multiplier=0.0)
    run = federated(config, LocalGrid(tmp_path / "clients", 2))
    assert_same_weights(run.folder, plain.folder)
    mine, theirs = RoundLog.open(run.folder / LOG), RoundLog.open(plain.folder / LOG)
    assert [each.sha256 for each in mine.rounds] == [each.sha256 for each in theirs.rounds]
    assert (mine.header.privacy, RoundScores.read(run.folder).privacy) == ({}, None)


def test_who_joins_late_stands_where_the_server_stands(done, bert, words, tmp_path):
    config, run, _ = done
    ended = configured(tmp_path / "run", bert, words)
    cut_before_the_last_scores(run, ended)
    # The scores of the last round are asked for again, of clients that have nothing.
    federated(ended, LocalGrid(tmp_path / "clients", 2), resume=True)
    [standing] = client_standing._standing.values()
    mine, theirs = trained_tensors(standing.model), trained_tensors(replayed(config))
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
    assert RoundScores.read(ended.run.out).rounds[-1].score == RoundScores.read(run.folder).rounds[-1].score


def test_a_server_that_is_killed_goes_on_with_the_same_bits(done, bert, words, tmp_path):
    _, undisturbed, _ = done
    config, grid = configured(tmp_path / "run", bert, words), LocalGrid(tmp_path / "clients", 2)

    class Killed(Exception):
        pass

    def kill(message, answer):
        # In the second round, when one client has trained and the other has not been heard.
        if len(grid.sent) == 8:
            raise Killed
        return [answer]

    grid.fault = kill
    with pytest.raises(Killed):
        federated(config, grid)
    assert len(RoundLog.open(config.run.out / LOG).rounds) == 1
    with pytest.raises(LopsidedError, match="holds a run already"):
        federated(config, grid)
    with pytest.raises(LopsidedError, match="local_epochs=1, asked 2"):
        federated(dataclasses.replace(config, local_epochs=2), grid, resume=True)
    grid.fault = lambda message, answer: [answer]
    federated(config, grid, resume=True)
    assert_same_weights(config.run.out, undisturbed.folder)
    assert federated(config, grid, resume=True).is_finished


# -- faults ----------------------------------------------------------------------------------------------------------


def changed(change):
    """What changes the first factor of an answer."""

    def fault(message, answer):
        record = answer.content.array_records[FACTORS]
        name = sorted(record)[0]
        record[name] = Array(change(record[name].numpy().copy()))
        return [answer]

    return fault


def nan(numbers):
    numbers[0] = float("nan")
    return numbers


def told(**figures):
    """What changes the figures of an answer."""

    def fault(message, answer):
        answer.content.metric_records[FIGURES].update(figures)
        return [answer]

    return fault


def in_training(faults):
    """Faults by client, in the answers to what it is to train."""

    def fault(message, answer):
        client = message.metadata.dst_node_id - 2
        if message.metadata.message_type == "train" and client in faults:
            return faults[client](message, answer)
        return [answer]

    return fault


def gone(message, answer):
    """What Flower itself answers in the place of a node that is no longer there."""
    error = Message(Error(3, "Node Unavailable"), reply_to=message)
    error.metadata.__dict__["_src_node_id"] = 1
    return [error]


# By client: its fault, and a part of the reason.
FAULTS = {
    1: (changed(nan), "NaN or Inf"),
    2: (changed(lambda numbers: numbers[:-1]), "has shape"),
    3: (changed(lambda numbers: numbers + 1e6), "root mean square"),
    4: (gone, "Node Unavailable"),
    5: (lambda message, answer: [Message(Error(2, "boom"), reply_to=message)], "its app failed: boom"),
    6: (told(examples=-1), "-1 examples"),
    7: (told(loss=float("nan")), "no number 'loss'"),
}


def test_an_answer_that_is_not_averaged_is_written_down_and_the_round_goes_on(tmp_path, bert, words):
    config = configured(tmp_path / "run", bert, words, rounds=1, clients=9, allow_missing=True)
    faults = in_training({client: fault for client, (fault, _) in FAULTS.items()})
    run = federated(config, LocalGrid(tmp_path / "clients", 9, faults))
    [record] = RoundLog.open(run.folder / LOG).rounds
    assert record.examples.keys() == {"client-0", "client-8"}
    [entry] = RoundScores.read(run.folder).rounds
    for client, (_, reason) in FAULTS.items():
        assert reason in record.refused[f"client-{client}"]
        figures = entry.clients[f"client-{client}"]
        assert (figures.refused, figures.examples) == (record.refused[f"client-{client}"], 0)
        # It is handed the average, and scored, all the same.
        assert figures.score is not None
        assert not figures.unscored


def test_who_does_not_answer_in_time_is_left_out_and_has_no_score(tmp_path, bert, words):
    def silent(message, answer):
        is_silent = message.metadata.dst_node_id == 3 and message.metadata.message_type != "query"
        return [] if is_silent else [answer]

    config = configured(tmp_path / "run", bert, words, rounds=1)
    run = federated(config, LocalGrid(tmp_path / "clients", 2, silent))
    [entry] = RoundScores.read(run.folder).rounds
    assert (entry.clients["client-1"].refused, entry.clients["client-1"].unscored) == (LATE, LATE)
    assert entry.clients.keys() == {"client-0", "client-1"}


def test_of_two_answers_the_first_counts(tmp_path, bert, words):
    config = configured(tmp_path / "run", bert, words, rounds=1)
    run = federated(config, LocalGrid(tmp_path / "clients", 2, lambda message, answer: [answer, answer]))
    [record] = RoundLog.open(run.folder / LOG).rounds
    assert record.examples == {"client-0": 32, "client-1": 32}
    assert "answered twice" in record.refused["client-1"]
    # The first one was averaged.
    assert RoundScores.read(run.folder).rounds[-1].clients["client-1"].examples == 32


def test_too_few_answers_end_the_run_and_keep_the_rounds_before(tmp_path, bert, words):
    config = configured(tmp_path / "run", bert, words, rounds=1, min_clients=2)
    with pytest.raises(LopsidedError, match=r"round 1: 1 answers can be averaged, expected 2.*NaN"):
        federated(config, LocalGrid(tmp_path / "clients", 2, in_training({1: changed(nan)})))


def test_a_client_of_another_version_cannot_take_part(tmp_path, bert, words, monkeypatch):
    versions = iter("12222222")
    # The server asks first.
    monkeypatch.setattr("lopsided.federated.federation.version", lambda name: next(versions))
    config = configured(tmp_path / "run", bert, words, rounds=1)
    with pytest.raises(LopsidedError, match=r"no client can take part: the server runs lopsided '1', this client 2"):
        federated(config, LocalGrid(tmp_path / "clients", 2))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"clients": 65}, "65 clients for 64 rows"),
        ({"partition": "domain"}, "rows with a column domain"),
        ({"clients": 40}, "has no rows of validation"),
    ],
)
def test_rows_that_do_not_fit_the_clients_end_it_in_a_line(tmp_path, bert, words, more, match):
    config = configured(tmp_path / "run", bert, words, **{"rounds": 1, "allow_missing": True, **more})
    with pytest.raises(LopsidedError, match=match):
        federated(config, LocalGrid(tmp_path / "clients", config.clients))


@pytest.mark.parametrize(
    ("run", "more", "match"),
    [
        ({"links": 2}, {}, "received links=2 for a federation"),
        ({"method": "peft:vera"}, {}, "can't be federated"),
        ({}, {"min_clients": 3}, "min_clients must not exceed the clients"),
        ({}, {"rounds": 0}, "rounds must be at least 1"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, bert, words, run, more, match):
    settings = tiny_config(tmp_path, **{"model": bert, "task": words, "method": "rac_b", "steps": None, **run})
    with pytest.raises(LopsidedError, match=match):
        FederationConfig(run=settings, **{"clients": 2, **more})


# -- traffic ---------------------------------------------------------------------------------------------------------


def test_heads_are_counted_apart_and_every_byte_is_counted(done):
    _, run, _ = done
    last = RoundScores.read(run.folder).rounds[-1]
    assert set(last.up) == set(last.down) == {"factors", "heads", "rest"}
    log = RoundLog.open(run.folder / LOG)
    numbers = {"factors": 0, "heads": 0}
    for name, shape in log.header.shapes.items():
        numbers["heads" if "modules_to_save" in name else "factors"] += torch.Size(shape).numel()
    for kind, count in numbers.items():
        # Two clients and two rounds of float32, and what describes an array.
        for way in (last.up, last.down):
            assert 16 * count < way[kind] < 16 * count + 4 * len(log.header.shapes) * 800


@pytest.mark.parametrize("method", ["rac_b", "c3la", "rac_a"])
def test_one_factor_is_half_of_loras_traffic_on_the_wire(method):
    identify()
    up = {}
    for name in (method, "lora"):
        model = adapted(name)
        # Flower sends equal arrays once, and factors that have not been trained are all zero.
        tensors = random_like(trained_tensors(model), seed=1)
        content = RecordDict(tensor_records(tensors, head_names(model)))
        message = Message(content, dst_node_id=2, message_type="train")
        up[name] = wire_bytes(message)
    assert up[method]["heads"] == up["lora"]["heads"] > 0
    assert up[method]["factors"] <= 0.51 * up["lora"]["factors"]


# -- the app's settings ----------------------------------------------------------------------------------------------


def test_settings_come_back_from_an_apps_configuration(tmp_path):
    run = tiny_config(tmp_path / "run", method="c3la", steps=None, also=["f1"], bf16=True, lr=1e-3)
    config = FederationConfig(run=run, clients=3, partition="dirichlet", concentration=0.25)
    assert from_flat(flat(config)) == config
    # TOML's 1 is a whole number.
    assert from_flat({"out": "run", "concentration": 1}).concentration == 1.0


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"out": "run", "round": 3}, "unknown setting 'round'"),
        ({"rounds": 3}, "expected the setting out"),
        ({"out": "run", "rounds": "three"}, "rounds: expected"),
        ({"out": "run", "rounds": True}, "rounds: expected"),
    ],
)
def test_a_configuration_that_is_none_of_a_federation(values, match):
    with pytest.raises(LopsidedError, match=match):
        from_flat(values)


def test_the_folder_of_an_app_is_one_that_flower_takes(tmp_path, bert, words):
    config = configured(tmp_path / "run", bert, words)
    folder = write_app(config, tmp_path / "app")
    project, warnings = load_and_validate(folder / "pyproject.toml", check_module=True)
    assert not warnings
    assert from_flat(project["tool"]["flwr"]["app"]["config"]) == config
    with pytest.raises(LopsidedError, match="is there already"):
        write_app(config, folder)


def test_the_page_and_the_table_show_scores_against_rounds_and_bytes(done, tmp_path):
    _, run, _ = done
    page = write_federated_page([run.folder], tmp_path / "federated.html").read_text(encoding="utf-8")
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    [group] = data["groups"]
    overall, clients = group["figures"]
    scores = RoundScores.read(run.folder)
    against_rounds, against_bytes = (each["series"][0] for each in overall["views"])
    assert against_rounds["x"] == [1, 2]
    assert (
        against_rounds["y"] == against_bytes["y"] == pytest.approx([entry.score for entry in scores.rounds], abs=1e-4)
    )
    assert against_bytes["x"] == pytest.approx([entry.bytes / 1e6 for entry in scores.rounds], rel=1e-3)
    assert [each["name"].split(",")[0] for each in clients["views"][::2]] == ["client-0", "client-1"]
    headings, row = federated_rows([run.folder])
    assert dict(zip(headings, row))["score"] == f"{scores.rounds[-1].score:.4f}"
    with pytest.raises(LopsidedError, match="holds no run"):
        write_federated_page([tmp_path], tmp_path / "federated.html")
