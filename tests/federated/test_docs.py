"""What docs/federated.md says: its simulations, and that no command or message is left untested.

Those of several machines are run by test_deployment.py.
"""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from lopsided_cli.main import app
from tests.cli.commands import lopsided
from tests.federated.page import PAGE, commands, messages, section
from tests.tiny_runs import write_task

HERE, MACHINES, KEYS = (section(each) for each in ("On one machine", "On two machines", "Only clients with a key"))
SIMULATED = commands(HERE)
# Ways to federate, each with a command of its own.
WAYS = {
    heading: commands(section(heading))
    for heading in (
        "One file per client",
        "Clients of lower rank",
        "Half the bytes",
        "Differential privacy",
        "Secure aggregation",
    )
}
SMALL = ["--train-size", "120", "--eval-rows", "40", "--rank", "4", "--batch-size", "15", "--max-length", "16"]
SMALL += ["--rounds", "2"]


def test_every_command_of_the_page_stands_where_a_test_runs_it():
    assert [command[0] for command in SIMULATED] == 3 * ["lopsided"]
    install = [["pip", "install", "lopsided[federated]"]]
    assert [len(each) for each in WAYS.values()] == 5 * [1]
    ways = [command for each in WAYS.values() for command in each]
    # In the page's order: what is done on one machine alone, on several, and what goes for both.
    assert commands(PAGE) == [*install, *SIMULATED, *ways[:3], *commands(MACHINES), *commands(KEYS), *ways[3:]]


def test_the_page_goes_from_the_settings_to_a_run_on_two_machines():
    programs = ["lopsided", *3 * ["openssl"], "flower-superlink", *2 * ["flower-supernode"], "flwr"]
    assert [command[0] for command in commands(MACHINES)] == programs
    assert [command[0] for command in commands(KEYS)] == ["ssh-keygen", "flower-superlink", "flwr", "flower-supernode"]


@pytest.mark.parametrize("command", [c for c in commands(PAGE) if c[0] == "lopsided"], ids=shlex.join)
def test_every_command_of_lopsided_is_one(command):
    _, verb, *arguments = command
    context = get_command(app).commands[verb].make_context(verb, arguments)
    assert context.params["rounds"] == 10


@pytest.mark.parametrize("command", [c for c in commands(PAGE) if c[0].startswith("flower-")], ids=shlex.join)
def test_every_command_of_flower_has_options_that_it_knows(command):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    program, *arguments = command
    kind = program.removeprefix("flower-")
    module = import_module(f"flwr.{kind}.cli.flower_{kind}")
    parser = getattr(module, f"_parse_args_run_{kind}")()
    parsed, unknown = parser.parse_known_args(arguments)
    assert not unknown
    assert not parsed.insecure


def test_the_lines_that_are_lopsideds_own_are_those_that_the_page_says(tmp_path, bert, words):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    from lopsided import LopsidedError
    from lopsided.federated.client_rows import own_rows
    from lopsided.federated.federation import FederationConfig, FederationPlan
    from tests.tiny_runs import tiny_config

    run = tiny_config(tmp_path, model=bert, task="none", method="rac_b", steps=None)
    said = []
    for fails in (
        lambda: FederationPlan.from_text('{"version": "0.0.1"}'),
        lambda: own_rows(FederationConfig(run=run, clients=2), words, ("no", "yes"), "here"),
    ):
        with pytest.raises(LopsidedError) as caught:
            fails()
        said.append(f"lopsided: {caught.value}")
    own = [parts for who, parts in messages() if who == "the run, the node"]
    assert len(own) == len(said)
    for parts, line in zip(own, said):
        assert all(part in line for part in parts), (parts, line)


# Ray alone takes ten seconds to start.
@pytest.mark.more
@pytest.mark.usefixtures("one_thread")
def test_the_pages_simulation_is_cut_off_and_goes_on_with_the_bits_of_an_undisturbed_one(processes, bert, tmp_path):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    import tomllib

    from lopsided.federated.flat_settings import from_flat
    from tests.federated.in_process import in_process
    from tests.federated.test_federation import assert_same_weights

    begin, _, resume = ([*command, *SMALL, "--model", bert] for command in SIMULATED)
    processes.start("begin", begin)
    processes.wait("the first round", lambda: "round 1 of 2" in processes.log("begin"))
    processes.kill("begin")
    goes_on = processes.run(resume, seconds=420.0)
    assert "goes on after round 1 of 2" in goes_on
    assert "round 2 of 2: 4 of 4 clients" in goes_on

    processes.run([*begin, "--init", "app"])
    project = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())
    config = from_flat(project["tool"]["flwr"]["app"]["config"])
    assert_same_weights(in_process(config, tmp_path / "again").folder, tmp_path / "federation")
    for name in ("run.json", "federated.json", "rounds", "federated.html"):
        assert f"`{name}" in HERE
        assert (tmp_path / "federation" / name).exists()


@pytest.mark.more
def test_the_pages_neighbours_are_on_one_page(monkeypatch, capfd, bert, tmp_path):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    monkeypatch.chdir(tmp_path)
    outcome = lopsided(monkeypatch, capfd, *SIMULATED[1][1:], *SMALL, "--model", bert)
    assert outcome.status == 0, outcome
    for method in ("rac_b", "full", "lora", "asym_b"):
        assert f"{method}: round 2 of 2: 4 of 4 clients" in outcome.err
    assert (tmp_path / "neighbours" / "federated.html").is_file()


@pytest.mark.more
@pytest.mark.parametrize("heading", WAYS)
def test_a_way_to_federate_runs_as_the_page_has_it(heading, monkeypatch, capfd, bert, tmp_path):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    [command] = WAYS[heading]
    if "--noise-multiplier" in command:
        pytest.importorskip("dp_accounting", reason="dp-accounting, of the extra dp, is not installed")
    small = list(SMALL)
    if "--ranks" in command:
        small[small.index("--rank") + 1] = "16"
    if "--task" in command:
        write_clinics(tmp_path / command[command.index("--task") + 1])
    monkeypatch.chdir(tmp_path)
    outcome = lopsided(monkeypatch, capfd, *command[1:], *small, "--model", bert)
    assert outcome.status == 0, outcome
    clients = command[command.index("--clients") + 1]
    assert f"round 2 of 2: {clients} of {clients} clients" in outcome.err, outcome
    assert (tmp_path / command[command.index("--out") + 1] / "federated.html").is_file()


def write_clinics(folder: Path) -> None:
    for name in ("clinic_a", "clinic_b"):
        (folder / name).mkdir(parents=True)
        write_task(folder / name, lambda text, word: {"text": text, "label": word}, {"train": 80})
        (folder / name / "train.jsonl").rename(folder / f"{name}.jsonl")
        (folder / name).rmdir()
