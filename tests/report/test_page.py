"""The page as text: what it holds, what it loads, what it does with hostile texts."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from lopsided.formatting import estimate_text
from lopsided.report import report_text, write_report
from lopsided.report.gather import gather
from lopsided.report.page import render
from tests.report.fabricated import diagnose_runs, fabricate_run, identity

HOSTILE = """<script>alert(1)</script><img src=x onerror="alert('2')">&amp;%{y}"""


class Page(HTMLParser):
    """The page as a test reads it: tables of cells, tags with attributes, text outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.scripts, self.words = [], [], [], []
        self.inside = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append({"tag": tag, "text": "", "value": None, **dict(attributes)})
        if tag == "data":
            self.tables[-1][-1][-1]["value"] = dict(attributes)["value"]
        if tag in ("script", "style"):
            self.inside = tag
            self.scripts.append((tag, dict(attributes), ""))

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = None

    def handle_data(self, data):
        if self.inside:
            tag, attributes, text = self.scripts[-1]
            self.scripts[-1] = (tag, attributes, text + data)
            return
        self.words.append(data)
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1]["text"] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def data(self):
        return next(json.loads(text) for _, attributes, text in self.scripts if attributes.get("id") == "data")


@pytest.fixture(scope="module")
def page(gathered):
    return Page(render(gathered))


def test_every_figure_of_the_leaderboard_is_the_gathered_one(page, gathered):
    tables = [table for table in page.tables if table[0][1].get("aria-sort")]
    assert len(tables) == len(gathered.boards)
    for drawn, board in zip(tables, gathered.boards):
        rows = {row.label: row for row in board.leaderboard.rows}
        assert [row[0]["data-text"] for row in drawn[1:]] == sorted(
            rows, key=lambda label: -rows[label].cells["score"].mean
        )
        for shown in drawn[1:]:
            for column, cell in zip(board.leaderboard.columns, shown[1:], strict=True):
                found = rows[shown[0]["data-text"]].cells[column.key]
                assert float(cell["value"]) == found.mean
                assert cell["text"].startswith(str(estimate_text(found.mean, found.half, column.unit)))


def test_the_page_says_what_failed_and_which_runs_it_is_of(page, gathered):
    for said in (
        "14 finished runs and 2 that failed or did not finish",
        "9 of their numbers are not finite",
        "paca-seed0 failed: the loss is not finite at step 7",
        "paca-seed1 cut off",
        "All runs: no command was recorded",
        "lopsided 0.1.0, torch 2.13.0, peft 0.21.2",
        *[reported.run.sha256[:12] for reported in gathered.runs],
        *[sentence for board in gathered.boards for sentence in board.leaderboard.sentences],
    ):
        assert said in page.text


def test_it_loads_nothing_and_carries_plotly_once(page):
    for _, attributes in page.tags:
        for name in ("src", "href", "data", "srcset", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    style = next(text for tag, _, text in page.scripts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"http|connect-src", policy)
    assert len([text for _, _, text in page.scripts if len(text) > 1_000_000]) == 1


def test_tables_and_figures_can_be_read_without_seeing_them(page):
    assert [tag for tag, _ in page.tags].count("caption") == len(page.tables)
    for table in page.tables:
        assert all(cell["scope"] == "col" for cell in table[0])
        assert all(row[0]["scope"] == "row" for row in table[1:])
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(set(ids)) == len(ids)
    pointed = [a[name] for _, a in page.tags for name in ("aria-labelledby",) if name in a]
    assert set(pointed) <= set(ids)
    plots = [a for _, a in page.tags if a.get("class") == "plot"]
    assert plots
    assert all(a["role"] in ("img", "application") and a["aria-label"] for a in plots)
    assert [a["tabindex"] for _, a in page.tags if a.get("class") == "scroll"]


@pytest.mark.more
def test_twelve_methods_with_three_seeds_stay_under_six_megabytes(tmp_path):
    names = [
        "full",
        "lora",
        "lora_plus",
        "lora_fa",
        "asym_b",
        "asym_a",
        "cola",
        "rac_b",
        "cla",
        "c3la",
        "paca",
        "relora",
    ]
    folders = [fabricate_run(tmp_path / f"{name}-{seed}", name, seed) for name in names for seed in (0, 1, 2)]
    diagnose_runs(folders, layers=36, grid=25)
    write_report([tmp_path], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


# Texts that a run is read by: another one is no run of ours.
FIXED = ("status", "id", "train", "parts", "directions", "sketch", "better", "model_type")


def hostile(value, key=""):
    """The same record with something nasty in every free text."""
    if key in ("sketch", "chain", "metric"):
        return value
    if isinstance(value, dict):
        return {name: hostile(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, key) for inner in value]
    return value + HOSTILE if isinstance(value, str) and key not in FIXED else value


@pytest.fixture(scope="module")
def attacked(study, tmp_path_factory):
    """The study with hostile texts in its records and diagnoses."""
    root = tmp_path_factory.mktemp("hostile") / "study"
    shutil.copytree(study, root)
    for path in sorted(root.rglob("run.json")):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**hostile(record), "command": HOSTILE}))
        diagnosis = path.with_name("diagnosis.json")
        if diagnosis.exists():
            found = hostile(json.loads(diagnosis.read_text()))
            diagnosis.write_text(json.dumps({**found, "run": {**found["run"], "id": identity(path.parent)}}))
    return gather([root], bounds=False)


def test_hostile_texts_stay_texts(gathered, attacked):
    clean, page = Page(render(gathered)), Page(render(attacked))
    tags = [{tag for tag, _ in each.tags} - {"code"} for each in (clean, page)]
    assert tags[0] == tags[1]
    assert "img" not in tags[1]
    assert len(page.scripts) == len(clean.scripts)
    text = next(text for _, attributes, text in page.scripts if attributes.get("id") == "data")
    assert "<" not in text
    assert "lora" + HOSTILE in page.data["looks"]
    drawn = {figure["key"].partition("-")[2] for group in page.data["groups"] for figure in group["figures"]}
    assert {"pareto", "losses", "landscapes", "intruders", "spectra", "forgetting", "timeline"} <= drawn
    assert HOSTILE in page.text


def test_a_page_of_failed_runs_alone_stands(tmp_path):
    fabricate_run(tmp_path / "cla", "cla", 0, status="failed")
    page = Page(render(gather([tmp_path])))
    assert "No method finished with a score" in page.text
    assert "the loss is not finite at step 7" in page.text
    assert page.data["groups"] == [{"key": "g0", "figures": []}]


def test_lab_and_advice_become_tables(gathered):
    figure = {
        "what": "a gap",
        "value": 1.0,
        "interval": None,
        "tolerance": "at most 1",
        "paper": None,
        "state": "holds",
    }
    lab = {
        "name": "sketches",
        "claim": "C.",
        "verdict": "reproduced",
        "figures": [figure],
        "size": "quick",
        "source": "S",
    }
    row = {"module": "one", "method": "cla", "side": "B", "rank": 16, "trained": 100, "reduction": 2.5, "fitted": None}
    rows = [row, {**row, "method": "lora", "side": "AB", "reduction": 9.0}, {**row, "module": "two", "reduction": 3.0}]
    best = {"one": "cla", "two": "cla"}
    settings = {"task": "t", "model": "m"}
    advice = {"settings": settings, "rows": rows, "best": best, "predictions": 8, "unit": "nats"}
    text = Page(render(dataclasses.replace(gathered, lab=(lab,), advice=(advice,)))).text
    assert "1 of 1 claims were reproduced" in text
    assert "begin with two." in text
    assert "not that of methods" in text


@pytest.mark.more
def test_the_terminal_needs_no_plotly_and_the_page_says_that_it_does():
    code = """
import sys
sys.modules["plotly"] = None
import lopsided.report.terminal
try:
    lopsided.report.report_text(None)
except lopsided.LopsidedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "plotly is not installed; run: pip install 'lopsided[report]'" in done.stdout


def test_a_write_that_fails_leaves_the_old_page(tmp_path, monkeypatch):
    run = fabricate_run(tmp_path / "runs" / "cla", "cla", 0)
    (tmp_path / "pages").mkdir()
    path = tmp_path / "pages" / "report.html"
    write_report([run], path)
    old = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_report([run], path)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]
    assert "data-live" not in path.read_text()[:500]


def test_a_served_page_knows_its_state_and_may_ask_for_it(gathered):
    text = report_text(gathered, live="abc")
    assert '<html lang="en" data-live="abc">' in text
    assert "connect-src 'self'" in text
