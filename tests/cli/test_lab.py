"""`lopsided lab`: the list, one experiment, the page, and how it refuses."""

from __future__ import annotations

import json

from lopsided.lab import EXPERIMENTS
from tests.cli.commands import assert_one_line


def test_the_list_names_all_with_their_claims(cli):
    listed = json.loads(cli("lab", "--list", "--json").out)
    assert [row["name"] for row in listed] == list(EXPERIMENTS)
    outcome = cli("lab", "--list")
    assert (outcome.status, outcome.err) == (0, "")
    assert all(name in outcome.out for name in EXPERIMENTS)


def test_an_experiment_leaves_its_folder_and_a_page(cli, tmp_path):
    out, page = tmp_path / "out", tmp_path / "lab.md"
    outcome = cli("lab", "counterexample", "--seeds", 4, "--out", out, "--page", page)
    assert (outcome.status, outcome.err) == (0, "")
    result = json.loads((out / "result.json").read_text())
    assert result["verdict"] in outcome.out
    assert result["settings"]["seeds"] == 4
    for plot in result["plots"]:
        assert (out / plot["file"]).read_text().startswith("<?xml")
    text = page.read_text()
    assert f"**Verdict: {result['verdict']}.**" in text
    assert "](out/gap.svg)" in text


def test_json_is_the_result(cli, tmp_path):
    printed = json.loads(cli("lab", "counterexample", "--seeds", 2, "--out", tmp_path / "out", "--json").out)
    assert printed == json.loads((tmp_path / "out" / "result.json").read_text())


def test_bad_input_is_one_line(cli, tmp_path):
    assert_one_line(cli("lab"), "expected an experiment or all, got none")
    assert_one_line(cli("lab", "countrexample"), "did you mean 'counterexample'")
    assert_one_line(cli("lab", "counterexample", "--seeds", 0), "at least one seed")
    assert_one_line(cli("lab", "counterexample", "--data", tmp_path), "takes no data")
    assert_one_line(cli("lab", "all", "--data", tmp_path), "--data is for one experiment")
