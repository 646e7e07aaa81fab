"""`lopsided federate`: what it refuses in a line, the folder for `flwr run`, and a simulation."""

from __future__ import annotations

import json

import pytest

from lopsided.runs import finished_run
from lopsided_cli import federate
from tests.cli.commands import assert_one_line


@pytest.fixture
def small(bert, words):
    lengths = ["--rank", 4, "--batch-size", 16, "--max-length", 16, "--lr", 0.01]
    return ["--model", bert, "--task", words, *lengths, "--clients", 2, "--rounds", 2]


def test_without_flower_it_says_what_to_install(cli, monkeypatch, small, tmp_path):
    monkeypatch.setattr(federate, "find_spec", lambda name: None if name == "flwr" else object())
    outcome = cli("federate", *small, "--out", tmp_path / "out")
    assert_one_line(outcome, "needs flwr, not installed here", "pip install 'lopsided[federated]'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "words_of_it"),
    [
        (["--partition", "fair"], ["unknown partition 'fair'; expected one of even, dirichlet, domain"]),
        (["--min-clients", 3], ["min_clients must not exceed the clients"]),
        (["--methods", "all"], ["--methods all would federate every method"]),
        (["--method", "peft:vera"], ["method 'peft:vera' can't be federated"]),
        (["--noise-multiplier", 1, "--delta", 0.1], ["noise_multiplier=1 without a clipping_norm"]),
        (["--secure-aggregation", "--clipping-norm", 1], ["secure_aggregation with 2 clients; expected 4 to 1000"]),
        (["--ranks", "4,8"], ["client 1 has rank 8; expected 1 to the server's, 4"]),
        (["--ranks", "4,2,1"], ["ranks has 3 numbers for 2 clients"]),
        (["--ranks", "4,low"], ["ranks"]),
        # Before the first of them begins.
        (["--methods", "rac_b,lora", "--ranks", "4,2"], ["method 'lora' trains A and B"]),
        (["--methods", "rac_b,lora", "--wire-dtype", "bfloat16"], ["rounds what method 'lora' keeps"]),
    ],
)
def test_bad_input_is_a_line(cli, small, tmp_path, more, words_of_it):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    assert_one_line(cli("federate", *small, *more, "--out", tmp_path / "out"), *words_of_it)
    assert not (tmp_path / "out").exists()


def test_init_writes_a_folder_and_runs_nothing(cli, small, tmp_path):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    outcome = cli("federate", *small, "--init", tmp_path / "app")
    assert (outcome.status, outcome.err) == (0, "")
    assert f"flwr run {tmp_path / 'app'}" in outcome.out
    assert 'serverapp = "lopsided_federation.server:app"' in (tmp_path / "app" / "pyproject.toml").read_text()
    assert not (tmp_path / "app-run").exists()
    assert_one_line(cli("federate", *small, "--init", tmp_path / "app"), "is there already")
    more = ["--init", tmp_path / "b", "--methods", "rac_b,lora"]
    assert_one_line(cli("federate", *small, *more), "--init writes one federation")


# Ray alone takes ten seconds to start.
@pytest.mark.more
def test_two_methods_in_a_simulation_next_to_each_other(cli, small, tmp_path):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    outcome = cli("federate", *small, "--methods", "rac_b,lora", "--out", tmp_path / "out")
    assert outcome.status == 0, outcome
    for name in ("rac_b", "lora"):
        assert finished_run(tmp_path / "out" / name).method.name == name
        assert f"{name}: round 2 of 2: 2 of 2 clients" in outcome.err
        assert not (tmp_path / "out" / name / "clients").exists()
    page = (tmp_path / "out" / "federated.html").read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    [group] = data["groups"]
    titles = [figure["title"] for figure in group["figures"]]
    assert titles == ["Score against rounds and bytes", "Score of each client"]
    assert [one["label"] for one in group["figures"][0]["views"][1]["series"]] == ["rac_b", "lora"]
    # What a federation leaves is a run like any other.
    assert cli("report", tmp_path / "out", "--out", tmp_path / "report.html").status == 0
    assert cli("export", tmp_path / "out" / "rac_b", "--out", tmp_path / "lora").status == 0


@pytest.mark.more
def test_noise_on_a_masked_sum_in_a_simulation_says_what_it_comes_to(cli, small, tmp_path):
    pytest.importorskip("flwr", reason="flwr, of the extra federated, is not installed")
    pytest.importorskip("dp_accounting", reason="dp-accounting, of the extra dp, is not installed")
    private = ["--clients", 4, "--allow-missing", "--clipping-norm", 0.5, "--noise-multiplier", 2, "--delta", 0.01]
    outcome = cli("federate", *small, *private, "--secure-aggregation", "--out", tmp_path / "out")
    assert outcome.status == 0, outcome
    assert "round 2 of 2: 4 of 4 clients" in outcome.err
    assert "planned: Differential privacy of the averages after 2 rounds" in outcome.err
    assert "Differential privacy of the averages after 2 rounds: ε = " in outcome.out
    spent = json.loads((tmp_path / "out" / "federated.json").read_text())["privacy"]
    assert (spent["rounds"], spent["noise_multiplier"]) == (2, 2.0)
