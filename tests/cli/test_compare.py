"""`lopsided compare`, from end to end on the tiny model."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shlex
import sys

import pytest
from transformers import AutoModel

from lopsided.runs import finished_run, session
from lopsided.study import CompareConfig, compare
from lopsided.study.comparison_settings import resumed_settings
from lopsided.study.what_next import what_next
from tests.cli.commands import assert_one_line


@pytest.fixture
def small(tiny):
    return [*tiny, "--steps", 4]


def test_compare_writes_results_and_report_and_shows_the_table(cli, small, tmp_path):
    options = ["--methods", "head,cla,lora", "--seeds", "0,1", "--out", tmp_path / "out"]
    outcome = cli("compare", *small, *options)
    assert outcome.status == 0
    assert [line.split(":")[0] for line in outcome.err.splitlines()] == [
        "head",
        "head 1",
        "cla",
        "cla 1",
        "lora",
        "lora 1",
    ]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["head", "cla", "lora"]
    assert results["command"].startswith("lopsided compare --model ")
    assert (results["settings"]["steps"], results["settings"]["rank"]) == (4, 4)
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    assert all(name in outcome.out for name in ("head", "cla", "lora", "report.html", "results.json"))
    assert "not tuned; with tuned rates the order may be another one (--tune 5)" in " ".join(outcome.out.split())
    again = cli("compare", *small, *options, "--resume", "--json")
    assert (again.status, again.err) == (0, "")
    assert [row["cells"] for row in json.loads(again.out)["rows"]] == [row["cells"] for row in results["rows"]]


def test_what_was_taken_can_be_loaded_and_exported_as_the_last_lines_say(cli, small, tmp_path):
    assert cli("compare", *small, "--methods", "head,full", "--out", tmp_path / "no").out.count("adapter of") == 0
    outcome = cli("compare", *small, "--methods", "cla,asym_b", "--lr", 2e-2, "--out", tmp_path / "an out")
    lines = outcome.out.splitlines()
    loading = lines.index("Three lines load it:")
    space = {}
    exec("\n".join(line.strip() for line in lines[loading + 1 : loading + 4]), space)
    assert space["model"].config.num_labels == 2
    [export] = [line.removeprefix("As plain LoRA: lopsided ") for line in lines if line.startswith("As plain LoRA")]
    assert cli(*shlex.split(export), "--out", tmp_path / "lora").status == 0
    assert (tmp_path / "lora" / "adapter_config.json").is_file()


def test_where_all_weights_were_taken_the_best_adapter_follows(cli, small, tmp_path):
    out = tmp_path / "out"
    assert cli("compare", *small, "--methods", "head,full,cla,asym_b", "--out", out).status == 0
    done = compare(CompareConfig(**resumed_settings(out)), resume=True)
    best = max(("cla", "asym_b"), key=lambda name: finished_run(out / f"runs/{name}-seed0").metrics["test"].score.value)
    taken = dataclasses.replace(done.leaderboard.decision, chosen="full")
    lines = what_next(dataclasses.replace(done, leaderboard=dataclasses.replace(done.leaderboard, decision=taken)))
    assert lines[0].startswith(f"The model of full is {out / 'runs' / 'full-seed0' / 'adapter'}")
    assert lines[1].startswith(f"The best adapter is that of {best}, ")
    assert (lines[2], lines[-1].partition(":")[0]) == ("Three lines load it:", "As plain LoRA")
    assert AutoModel.from_pretrained(out / "runs" / "full-seed0" / "adapter").config.model_type == "bert"


def test_an_interrupted_comparison_says_how_to_go_on_and_goes_on(cli, small, tmp_path, monkeypatch):
    prepare = session.prepare

    def interrupt(model, method, *rest):
        if method.name == "cla":
            raise KeyboardInterrupt
        return prepare(model, method, *rest)

    monkeypatch.setattr(session, "prepare", interrupt)
    plugin = tmp_path / "mine.py"
    plugin.write_text("")
    outcome = cli("compare", *small, "--methods", "head,cla", "--out", tmp_path / "an out", "--plugin", plugin)
    assert outcome.status == 130
    [line] = [line for line in outcome.err.splitlines() if "interrupted" in line]
    monkeypatch.setattr(session, "prepare", prepare)
    command = shlex.split(line.partition("go on with: lopsided ")[2])
    assert command[-2:] == ["--plugin", str(plugin)]
    again = cli(*command)
    assert again.status == 0
    assert not [each for each in again.err.splitlines() if each.startswith("head:")], "a finished run is made once"
    assert {"head", "cla"} <= {word for text in again.out.splitlines() for word in text.split()}


@pytest.fixture
def crash(monkeypatch):
    """Lets the runs of some methods end with an error that nothing foresees."""
    prepare = session.prepare

    def arrange(*methods):
        def fail(model, method, *rest):
            if method.name in methods:
                raise KeyError("a misspelt field")
            return prepare(model, method, *rest)

        monkeypatch.setattr(session, "prepare", fail)

    return arrange


def test_a_failing_method_is_a_row_and_the_status_says_so(cli, small, tmp_path, crash):
    crash("cla")
    outcome = cli("compare", *small, "--methods", "cla,head,full", "--out", tmp_path / "out")
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["status"] for row in results["rows"]] == ["failed", "ok", "ok"]
    assert results["rows"][0]["error"] == "KeyError: 'a misspelt field'"
    assert "failed" in outcome.out
    assert "a misspelt field" in (tmp_path / "out" / "report.html").read_text()


def test_all_methods_failing_is_a_table_too(cli, small, tmp_path, crash):
    crash("cla", "lora")
    outcome = cli("compare", *small, "--methods", "cla,lora", "--out", tmp_path / "out")
    assert (outcome.status, outcome.err) == (1, "")
    assert (tmp_path / "out" / "report.html").exists()
    assert "No method finished" in outcome.out


def test_all_that_can_not_work_is_told_at_once_and_nothing_is_left(cli, small, tmp_path):
    options = ["--rank", 33, "--methods", "cla,lora,asym_a,head,full,bernoulli"]
    outcome = cli("compare", *small, *options, "--out", tmp_path / "out")
    rank, rest = "rank must not exceed the layer's width: r=33,", "; lower r or exclude the module"
    module = "bert.encoder.layer.0.attention.self.query"
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.splitlines() == [
        f"lopsided: cla, lora: {rank} d_in=32 in {module}{rest}",
        f"lopsided: asym_a: {rank} d_out=32 in {module}{rest}",
        f"lopsided: bernoulli: {rank} min(d_out, d_in)=32 in {module}{rest}",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_could_not_be_written_is_told_first(cli, small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    outcome = cli("compare", *small, "--methods", "head", "--out", tmp_path / "out")
    assert_one_line(outcome, "the HTML report needs plotly and jinja2, and plotly is not installed")
    assert not (tmp_path / "out").exists()


def test_steps_need_to_fit_the_methods_that_are_compared_alone(cli, small, tmp_path):
    # Fewer steps than the four links of a chain that is not compared.
    outcome = cli("compare", *small, "--steps", 2, "--methods", "lora", "--out", tmp_path / "out")
    assert outcome.status == 0
    outcome = cli("compare", *small, "--steps", 2, "--methods", "c3la", "--links", 2, "--out", tmp_path / "links")
    assert outcome.status == 0
    assert finished_run(tmp_path / "links" / "runs" / "c3la-seed0").links == 2


def test_epochs_take_the_place_of_steps(cli, bert, words, tmp_path):
    options = ["--model", bert, "--task", words, "--methods", "head", "--epochs", 1, "--batch-size", 16]
    assert cli("compare", *options, "--out", tmp_path / "out").status == 0
    assert finished_run(tmp_path / "out" / "runs" / "head-seed0").steps == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tune", 1], "tune must be at least 2, got 1"),
        (["--tune", 3, "--lr", 0.01], "tune chooses a learning rate for each method, and lr=0.01 is one for all"),
    ],
)
def test_rates_that_can_not_be_tuned(cli, small, tmp_path, options, message):
    assert_one_line(cli("compare", *small, *options, "--methods", "head", "--out", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


def test_tuning_without_optuna(cli, bert, words, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: find(name, *rest) if name != "optuna" else None
    )
    options = ["--model", bert, "--task", words, "--tune", 2, "--methods", "head"]
    outcome = cli("compare", *options, "--out", tmp_path / "out")
    assert_one_line(outcome, "Optuna, which is not installed; pip install 'lopsided[tune]'")
    assert not (tmp_path / "out").exists()
