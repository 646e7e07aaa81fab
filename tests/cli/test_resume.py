"""`--resume` alone: a folder's own options are those that count."""

from __future__ import annotations

import json
import sys

import pytest

from lopsided.runs import read_run, session
from tests.cli.commands import assert_one_line


@pytest.fixture
def cut(monkeypatch):
    """Ends runs of these methods when their steps are done, before anything is measured."""
    measure = session.measure

    def arrange(*methods):
        def fail(of):
            if of.config.method in methods:
                raise KeyboardInterrupt
            return measure(of)

        # The package has a function of the module's name.
        monkeypatch.setattr(sys.modules["lopsided.runs.train"], "measure", fail)

    return arrange


def test_a_run_is_resumed_by_its_folder_alone(cli, tiny, tmp_path, cut):
    out = tmp_path / "out"
    cut("cla")
    options = ["--method", "cla", "--steps", 4, "--test-rows", 7, "--seed", 2]
    assert cli("train", *tiny, *options, "--out", out).status != 0
    cut()
    assert_one_line(cli("train", "--out", out), "holds a run already (failed)", "pass --resume")
    # A default is refused where it is asked for, and does not count where it is not.
    asked = cli("train", "--out", out, "--resume", "--rank", 16, "--method", "cla")
    assert_one_line(asked, "holds a run with rank=4, asked 16; resume with its own options")
    done = cli("train", "--out", out, "--resume", "--json")
    assert done.status == 0
    run = read_run(out)
    assert json.loads(done.out) == run.to_json()
    assert (run.settings["seed"], run.settings["rank"], run.metrics["test"].rows) == (2, 4, 7)
    assert "--method cla" in run.command


@pytest.mark.more
def test_a_comparison_is_resumed_by_its_folder_alone(cli, tiny, tmp_path, cut):
    out = tmp_path / "out"
    cut("c3la")
    options = ["--methods", "head,c3la", "--seeds", "1,2", "--links", 3, "--steps", 4, "--out", out]
    assert cli("compare", *tiny, *options).status != 0
    assert not (out / "results.json").exists()
    cut()
    asked = cli("compare", "--out", out, "--resume", "--steps", 5, "--links", 2, "--tune", 3)
    assert_one_line(asked, "holds a run with", "links=3, asked 2", "steps=4, asked 5", "tune=None, asked 3")
    done = cli("compare", "--out", out, "--resume", "--json")
    assert done.status == 0
    results = json.loads(done.out)
    assert [(row["method"], row["links"]) for row in results["rows"]] == [("head", 1), ("c3la", 3)]
    assert results["seeds"] == [1, 2]
    assert "--methods head,c3la" in results["command"]
    # Methods may be added.
    more = json.loads(cli("compare", "--out", out, "--resume", "--methods", "head,lora", "--json").out)
    assert [row["method"] for row in more["rows"]] == ["head", "lora"]


@pytest.mark.parametrize("verb", ["train", "compare"])
def test_nothing_to_resume(cli, tiny, tmp_path, verb):
    assert_one_line(cli(verb, "--resume"), "--resume goes on with what a folder holds", "pass --out")
    assert_one_line(cli(verb, "--resume", "--out", tmp_path / "out"), "holds nothing to resume", "without --resume")
    assert not (tmp_path / "out").exists()
    # With options it begins, so that one line of a job's script does for all of its starts.
    begun = [*tiny, "--steps", 1, "--resume", "--out", tmp_path / "out"]
    begun += ["--method", "head"] if verb == "train" else ["--methods", "head"]
    assert cli(verb, *begun).status == 0
