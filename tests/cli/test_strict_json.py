"""Every verb's JSON is strict, and what could not be computed is a dash with a reason; also of diverged runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lopsided.runs.directory import read_predictions, write_predictions


def parsed(text: str):
    def refuse(token: str):
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def made(cli, tiny, words, tmp_path):
    """A run with one test row, what `lopsided train --json` printed of it, and its options."""
    task = tmp_path / "task"
    task.mkdir()
    for split in ("train", "validation", "test"):
        rows = (Path(words) / f"{split}.jsonl").read_text().splitlines()
        (task / f"{split}.jsonl").write_text("\n".join(rows[:1] if split == "test" else rows) + "\n")
    options = [task if option == words else option for option in tiny]
    outcome = cli("train", *options, "--method", "cla", "--out", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    return tmp_path / "run", parsed(outcome.out), options


def test_one_test_row_has_no_standard_error_anywhere(cli, made, tmp_path):
    run, record, _ = made
    assert parsed((run / "run.json").read_text()) == record
    test = record["metrics"]["test"]
    assert (test["rows"], test["se"]) == (1, None)
    assert test["why"] == {"se": "one row has no standard error"}
    assert record["generalization_error"]["se"] is None
    assert record["generalization_error"]["value"] >= 0
    # The loss of one row has no spread to take σ from.
    assert "at least two finite losses" in cli("bounds", run).err
    diagnosed = parsed(cli("diagnose", run, "--only", "generalization", "--json").out)
    gap = diagnosed["generalization"]["G"]
    assert (gap["low"], gap["high"]) == (None, None)
    assert gap["why"]["low"] == "one row has no interval (test)"
    told = cli("diagnose", run, "--only", "generalization").out
    assert "[–, –]" in re.sub(r"\s+", " ", told)
    assert "– generalization.G.low: one row has no interval (test)" in told
    page = tmp_path / "page.html"
    gathered = parsed(cli("report", run, "--out", page, "--json").out)
    cell = gathered["groups"][0]["rows"][0]["cells"]["score"]
    assert (cell["half"], cell["why"]) == (None, {"se": "one row has no standard error"})
    text = page.read_text()
    assert "± – %" in text
    assert "standard error of test accuracy, cla: one row has no standard error." in text
    parsed(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_a_run_that_diverged_on_test_shows_no_score(cli, made, tmp_path):
    """As a run of version 0.1.0 that left NaN in run.json, and answers in predictions.npz, would be read."""
    run, record, _ = made
    rows = read_predictions(run)
    rows["test"]["loss"] = np.full(1, np.nan)
    write_predictions(run, rows)
    record["metrics"]["test"] = {"score": float("nan"), "se": float("nan"), "loss": float("nan"), "rows": 1}
    record["generalization_error"] = {"value": float("nan"), "se": float("nan")}
    record["history"][0]["loss"] = float("inf")
    (run / "run.json").write_text(json.dumps(record))
    page = tmp_path / "page.html"
    outcome = cli("report", run, "--out", page, "--json")
    gathered = parsed(outcome.out)
    assert gathered["not_finite"] == 6
    assert gathered["groups"][0]["rows"][0]["cells"]["score"]["mean"] is None
    text = page.read_text()
    assert "metrics.test.score" in text
    parsed(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    diagnosed = parsed(cli("diagnose", run, "--only", "generalization,timeline", "--json").out)
    assert "1 of 1 in 'test'" in diagnosed["skipped"]["generalization"]
    assert "two finite losses" in cli("bounds", run).err


def test_a_comparison_with_one_test_row_can_tell_nothing_apart(cli, made, tmp_path):
    _, _, options = made
    out = tmp_path / "study"
    outcome = cli("compare", *options[:-2], "--methods", "cla,asym_b", "--out", out, "--json")
    assert outcome.status == 0, outcome.err
    results = parsed(outcome.out)
    assert parsed((out / "results.json").read_text()) == results
    cells = [row["cells"]["score"] for row in results["rows"]]
    assert {cell["mark"] for cell in cells} == {"best", "tied"}
    assert all(cell["se"] is None and cell["why"]["se"] == "one row has no standard error" for cell in cells)


@pytest.mark.parametrize(
    "arguments",
    [["methods", "--json"], ["lab", "--list", "--json"], ["bounds", "--json"]],
    ids=lambda arguments: arguments[0],
)
def test_verbs_without_a_run(cli, bert, arguments):
    more = ["--model", bert] if arguments[0] == "bounds" else []
    parsed(cli(*arguments, *more).out)


def test_the_labs_and_advises_files(cli, tiny, tmp_path):
    printed = parsed(cli("lab", "counterexample", "--seeds", 1, "--out", tmp_path / "lab", "--json").out)
    assert parsed((tmp_path / "lab" / "result.json").read_text()) == printed
    assert printed["verdict"] == "undecided"
    assert [figure["interval"] for figure in printed["figures"][2:]] == [None, None]
    pairs = dict(zip(tiny[::2], tiny[1::2]))
    asked = ["--model", pairs["--model"], "--task", pairs["--task"], "--batch-size", 8, "--max-length", 16, "--rank", 4]
    outcome = cli(
        "advise", *asked, "--methods", "cla,asym_b", "--head-steps", 2, "--out", tmp_path / "advice", "--json"
    )
    assert parsed(outcome.out) == parsed((tmp_path / "advice" / "advice.json").read_text())
