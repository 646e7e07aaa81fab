"""What does not fit ends in one line that says what was expected, and nothing that was there is lost."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")

from flwr.app import Context, RecordDict
from flwr.app.user_config import UserConfig

from lopsided import LopsidedError
from lopsided.federated import client_standing, simulation
from lopsided.federated.client_app import place_of
from lopsided.federated.client_rows import own_rows
from lopsided.federated.client_standing import ClientPlace, FederatedClient
from lopsided.federated.factors import trained_tensors
from lopsided.federated.federation import FederationConfig, FederationPlan
from lopsided.federated.log_header import LogHeader
from lopsided.federated.round_log import RoundLog, replay
from lopsided.federated.round_scores import RoundScores
from lopsided.federated.server_app import make_server_app
from lopsided.federated.server_rounds import LOG, serve
from lopsided.federated.strategy import FactorAveraging
from lopsided.runs.inputs import load_inputs
from lopsided.runs.preflight import total_steps
from lopsided.runs.prepare import prepare
from tests.cli.commands import assert_one_line, lopsided
from tests.federated.local_grid import LocalGrid
from tests.federated.rounds import adapted, random_like
from tests.tiny_runs import tiny_config, write_task

pytestmark = pytest.mark.usefixtures("one_thread")


def configured(out, bert, words, **more):
    run = {"model": bert, "task": words, "method": "rac_b", "steps": None, "batch_size": 32, **more.pop("run", {})}
    return FederationConfig(run=tiny_config(out, **run), **{"clients": 2, "rounds": 1, **more})


@pytest.fixture
def command(bert, words):
    lengths = ["--rank", 4, "--batch-size", 16, "--max-length", 16, "--clients", 2, "--rounds", 2]
    return ["federate", "--model", bert, "--task", words, *lengths]


@pytest.fixture
def no_processes(monkeypatch):
    def started(**arguments):
        raise AssertionError("the simulation was started")

    monkeypatch.setattr(simulation, "run_simulation", started)


# -- rows and clients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--clients", 65], ["65 clients for 64 rows; expected 1 to 64"]),
        (["--clients", 40, "--allow-missing"], ["has no rows of validation to be scored on"]),
        (["--partition", "domain"], ["expected rows with a column domain, received"]),
        (
            ["--partition", "dirichlet", "--concentration", 0.01],
            ["client", "expected", "raise alpha, lower the clients, take another seed"],
        ),
        (["--method", "ipa_b"], ["'ipa_b' draws its sketch from a layer's inputs", "take another method"]),
    ],
)
def test_a_simulation_says_so_before_it_starts_processes(
    monkeypatch, capfd, command, no_processes, tmp_path, more, parts
):
    outcome = lopsided(monkeypatch, capfd, *command, *more, "--out", tmp_path / "out")
    assert_one_line(outcome, *parts)
    assert not list(tmp_path.rglob("round-*"))


def test_a_client_whose_own_task_lacks_a_class_is_told_which(tmp_path, bert, words):
    # Four rows of 64, all of one class by this seed.
    rows = {"run": {"train_size": 1}}
    with pytest.raises(LopsidedError, match=r"has no training row of 1 of 2 classes \((0|1)\); expected all of them"):
        own_rows(configured(tmp_path, bert, words, **rows), words, ("0", "1"), "here")
    allowed = configured(tmp_path, bert, words, allow_missing=True, **rows)
    assert own_rows(allowed, words, ("0", "1"), "here").name == "here"


@pytest.mark.parametrize(
    ("own", "match"),
    [
        (
            {},
            'expected partition-id, a number from 0.*got None; start the SuperNode with --node-config "partition-id=0"',
        ),
        ({"partition-id": -1}, "got -1"),
        ({"partition-id": "0"}, "got '0'"),
    ],
)
def test_a_node_that_does_not_say_which_client_it_is(own, match):
    context = Context(run_id=1, node_id=2, node_config=UserConfig(own), state=RecordDict(), run_config=UserConfig())
    with pytest.raises(LopsidedError, match=match):
        place_of(context, None, "run")


# -- one node and another --------------------------------------------------------------------------------------------


def plan_of(config):
    inputs = load_inputs(config.run)
    run = config.server_run
    steps = total_steps(run, len(inputs.data.encoded.splits["train"]))
    model = prepare(inputs.model, run.resolve_method(), inputs.data.task, run, steps)
    header = LogHeader.of(model, run="a", method=run.method, seed=run.seed)
    return FederationPlan.of(config, header, inputs.data.task.labels)


def test_two_nodes_of_one_process_with_one_task_of_their_own_have_names_of_their_own(tmp_path, bert, words):
    client_standing.forget()
    plan = plan_of(configured(tmp_path / "run", bert, words))
    places = [ClientPlace(index=n, folder=tmp_path / str(n), task=words) for n in (0, 1)]
    places.append(ClientPlace(index=2, folder=tmp_path / "2", task=words, name="clinic"))
    rows = [FederatedClient(plan, place).rows for place in places]
    assert [each.name for each in rows] == ["client-0", "client-1", "clinic"]
    # They are loaded once.
    assert rows[0].data is rows[1].data is rows[2].data


def test_a_client_beyond_those_of_the_federation_is_told_which_there_are(tmp_path, bert, words):
    client_standing.forget()
    plan = plan_of(configured(tmp_path / "run", bert, words))
    with pytest.raises(LopsidedError, match=r"this is client 2, and the federation has clients 0 to 1.*partition-id"):
        assert FederatedClient(plan, ClientPlace(index=2, folder=tmp_path / "2")).rows


# -- logs and versions -----------------------------------------------------------------------------------------------


def federated(config, grid, **more):
    client_standing.forget()
    return serve(config, lambda rounds: FactorAveraging(rounds).run(grid), **more)


class Cut(Exception):
    pass


@pytest.fixture(scope="module")
def begun(tmp_path_factory, bert, words):
    """The folder of a federation of two rounds that was cut off after its first one."""
    out = tmp_path_factory.mktemp("begun") / "run"
    config, grid = configured(out, bert, words, rounds=2), LocalGrid(out.parent / "clients", 2)

    def cut(message, answer):
        if message.metadata.message_type == "train" and len(grid.sent) > 6:
            raise Cut
        return [answer]

    grid.fault = cut
    with pytest.raises(Cut):
        federated(config, grid)
    return out


def at_the_first_message(message, answer):
    raise Cut


def test_the_log_of_another_run_in_a_servers_folder_is_not_gone_on_with(tmp_path, bert, words, begun):
    config = configured(tmp_path / "run", bert, words, rounds=2)
    shutil.copytree(begun, config.run.out)
    header = json.loads((config.run.out / LOG / "log.json").read_text())
    (config.run.out / LOG / "log.json").write_text(json.dumps({**header, "run": "of somebody else"}))
    before = {path: path.read_bytes() for path in (config.run.out / LOG).iterdir()}
    grid = LocalGrid(tmp_path / "clients", 2, at_the_first_message)
    with pytest.raises(LopsidedError, match=r"is the log of run 'of somebody else', expected '.*'; choose its folder"):
        federated(config, grid, resume=True)
    assert not grid.sent
    assert {path: path.read_bytes() for path in (config.run.out / LOG).iterdir()} == before


def test_a_log_whose_scores_do_not_name_their_run_is_taken_as_it_is(tmp_path, bert, words, begun):
    config = configured(tmp_path / "run", bert, words, rounds=2)
    shutil.copytree(begun, config.run.out)
    dataclasses.replace(RoundScores.read(config.run.out), run="").write(config.run.out)
    with pytest.raises(Cut):
        federated(config, LocalGrid(tmp_path / "clients", 2, at_the_first_message), resume=True)


def test_a_log_of_several_links_needs_a_method_with_a_chain(tmp_path):
    model = adapted("asym_b")
    log = RoundLog.begin(tmp_path / "log", model, run="a", method="asym_b", seed=0)
    log.append(random_like(trained_tensors(model), seed=1), link=1, examples={"a": 1})
    with pytest.raises(LopsidedError, match="stands at link 1, and the model's method has no chain; take a chained"):
        replay(RoundLog.open(tmp_path / "log"), adapted("asym_b"))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"version": "0.0.1"}, "the server runs lopsided '0.0.1', this client .*; expected one version; install"),
        # A plan of another version need not have the fields of this one.
        ({"version": "0.0.1", "news": 1}, "the server runs lopsided '0.0.1'"),
        ({"version": None}, "the server runs lopsided None"),
    ],
)
def test_a_plan_of_another_version_is_refused_before_it_is_read(tmp_path, bert, words, fields, match):
    plan = json.loads(plan_of(configured(tmp_path / "run", bert, words)).to_text())
    with pytest.raises(LopsidedError, match=match):
        FederationPlan.from_text(json.dumps({**plan, **fields}))


def test_the_server_app_says_the_line_before_flower_says_where_it_came_from(tmp_path, capsys):
    own = UserConfig({"out": str(tmp_path / "run"), "rounds": "three"})
    context = Context(run_id=1, node_id=1, node_config=UserConfig(), state=RecordDict(), run_config=own)
    with pytest.raises(LopsidedError, match="rounds: expected"):
        make_server_app()(LocalGrid(tmp_path / "clients", 2), context)
    assert capsys.readouterr().out.startswith("lopsided: rounds: expected")
    assert not (tmp_path / "run").exists()


def test_a_client_that_cannot_take_part_says_so_where_it_runs(tmp_path, bert, words, capsys):
    config = configured(tmp_path / "run", bert, words)
    other = write_task(tmp_path, lambda text, word: {"text": text, "label": f"is {word}"})
    grid = LocalGrid(tmp_path / "clients", 2)
    grid.own = {0: {"task": other}}
    run = federated(config, grid)
    assert "lopsided: task" in capsys.readouterr().out
    assert RoundScores.read(run.folder).rounds[-1].clients.keys() == {"client-1"}
