"""`lopsided report`: runs become one page."""

from __future__ import annotations

import json
import shlex

import pytest

from lopsided.runs.directory import in_use
from tests.cli.commands import assert_one_line


@pytest.fixture
def run(cli, tiny, tmp_path):
    assert cli("train", *tiny, "--method", "c3la", "--out", tmp_path / "runs" / "c3la").status == 0
    return tmp_path / "runs"


def test_a_run_becomes_a_page_and_json(cli, run, tmp_path):
    outcome = cli("report", run, "--out", tmp_path / "pages" / "report.html")
    assert (outcome.status, outcome.err) == (0, "")
    assert "1 method on" in outcome.out
    page = (tmp_path / "pages" / "report.html").read_text()
    assert 'data-label="c3la"' in page
    told = cli("report", run / "c3la", "--out", tmp_path / "report.html", "--json")
    gathered = json.loads(told.out)
    record = json.loads((run / "c3la" / "run.json").read_text())
    assert gathered["groups"][0]["rows"][0]["cells"]["score"]["mean"] == record["metrics"]["test"]["score"]
    assert len(gathered["runs"][0]["adapter"]) == 24
    assert gathered["runs"][0]["boundaries"] == record["chain"]["boundaries"]


def test_a_run_that_is_cut_off_is_named_with_what_goes_on_with_it(cli, tiny, tmp_path):
    folder = tmp_path / "a run"
    assert cli("train", *tiny, "--method", "cla", "--out", folder).status == 0
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}))
    outcome = cli("report", folder, "--out", tmp_path / "report.html")
    assert "1 run\n" in outcome.out
    [line] = [line for line in outcome.out.splitlines() if "in no table" in line]
    assert "cut off" in line
    command = shlex.split(line.partition("go on with: lopsided ")[2])
    assert command == ["train", "--resume", "--out", str(folder)]
    with in_use(folder):
        told = cli("report", folder, "--out", tmp_path / "report.html").out
    assert f"{folder}: running, and in no table yet" in told


def test_bad_input_is_one_line(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    out = ("--out", tmp_path / "report.html")
    assert_one_line(cli("report", tmp_path / "nowhere", *out), "is not there", "check the path")
    assert_one_line(cli("report", tmp_path / "empty", *out), "is not a run", "an empty folder")
    assert_one_line(cli("report", tmp_path / "other", *out), "is not a run", "notes.txt")
    assert_one_line(cli("report", tmp_path / "empty", "--out", tmp_path), "--out must be an HTML file")
    assert_one_line(cli("report", tmp_path / "empty", *out, "--watch", "--json"), "leave one of them out")
    assert not (tmp_path / "report.html").exists()
