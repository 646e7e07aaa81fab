import copy
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from report_example import COLUMNS, example

from lopsided.report import write_report
from lopsided.report.format import cell_text
from lopsided.report.page import render

HOSTILE = """<script>alert(1)</script><img src=x onerror="alert('2')">&amp;%{y}"""


class Page(HTMLParser):
    """The page as a test reads it: rows of cells, tags with attributes, text outside scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.scripts, self.words = [], [], [], []
        self.inside, self.in_cell = None, False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.in_cell = True
            self.tables[-1][-1].append({"tag": tag, "text": "", "value": None, **dict(attributes)})
        if tag == "data":
            self.tables[-1][-1][-1]["value"] = dict(attributes)["value"]
        if tag in ("script", "style"):
            self.inside = tag
            self.scripts.append((tag, dict(attributes), ""))

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = None
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            tag, attributes, text = self.scripts[-1]
            self.scripts[-1] = (tag, attributes, text + data)
            return
        self.words.append(data)
        if self.in_cell:
            self.tables[-1][-1][-1]["text"] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def row(self, method):
        return next(row for row in self.tables[0][1:] if row[0]["text"].split("trains")[0].strip() == method)


@pytest.fixture(scope="module")
def page():
    return Page(render(example(more=True)))


def test_every_figure_on_the_page_is_the_dictionary_s(page):
    for one in example(more=True)["rows"]:
        cells = page.row(one["method"])
        if one["status"] != "ok":
            continue
        assert len(cells) == 1 + len(COLUMNS)
        for column, shown in zip(COLUMNS, cells[1:]):
            cell = one["cells"][column["key"]]
            assert float(shown["value"]) == cell["mean"]
            assert shown["text"].startswith(cell_text(cell, column["unit"]))
            if cell["mark"] is None:
                assert "class" not in shown
            else:
                assert shown["class"] == cell["mark"]
                assert shown["text"].endswith({"best": "● best", "tied": "○ tied"}[cell["mark"]])


def test_the_page_says_which_run_it_is(page):
    for said in (
        "Twelve adapters on movie reviews",
        "model embedded on task vader/movie with seed 0 in 8 min 32 s on AMD EPYC 7R13 (2 cores, 2 threads)",
        "22 November 2026, 01:00 UTC",
        "torch 2.13.0, transformers 5.20.1",
        "batch size 32",
        *example()["sentences"],
        example()["task_note"],
        "paca and rcla have the same parts: with the same seed they are the same run.",
        "|test loss − train loss|",
        "within two standard errors of the paired difference, with one seed",
    ):
        assert said in page.text
    # A browser breaks the command between its words, so each word has a tag of its own.
    assert example()["command"] in page.text


def test_several_seeds_change_what_tied_means():
    text = Page(render({**example(), "seeds": [0, 1, 2]})).text
    assert "with seeds 0, 1 and 2" in text
    assert "over the 3 seeds holds zero" in text
    assert "Mean ± one standard error over 3 seeds" in text


def test_it_loads_nothing_and_carries_plotly_once(page, tmp_path):
    for _, attributes in page.tags:
        for name in ("src", "href", "data", "srcset", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    style = next(text for tag, _, text in page.scripts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    libraries = [text for tag, _, text in page.scripts if tag == "script" and len(text) > 1_000_000]
    assert len(libraries) == 1
    write_report(example(more=True), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 6_000_000


def test_tables_can_be_read_without_seeing_them(page):
    assert [tag for tag, _ in page.tags].count("caption") == len(page.tables) == 2
    for table in page.tables:
        assert all(cell["scope"] == "col" for cell in table[0])
        assert all(row[0]["scope"] in ("row", "rowgroup") for row in table[1:])
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(set(ids)) == len(ids)
    links = [attributes["href"][1:] for tag, attributes in page.tags if tag == "a"]
    assert links
    assert set(links) <= set(ids)
    scrolling = [attributes for _, attributes in page.tags if attributes.get("class") == "scroll"]
    assert {attributes["tabindex"] for attributes in scrolling} == {"0"}
    assert {attributes["aria-labelledby"] for attributes in scrolling} <= set(ids)


def test_the_floor_stands_apart_and_a_failed_row_shows_its_error(page):
    rows = page.tables[0]
    label = next(i for i, row in enumerate(rows) if row[0]["text"] == "floor")
    assert [row[0]["text"].split("trains")[0] for row in rows[label + 1 :]] == ["head"]
    _, error = page.row("too_wide")
    assert error["colspan"] == "7"
    assert example()["rows"][-2]["error"] in error["text"]
    assert page.text.count("Left out of this plot: too_wide (failed).") == 2


def hostile(value):
    """The same dictionary with something nasty in every free text."""
    if isinstance(value, dict):
        fixed = ("key", "unit", "better", "mark", "status", "created", "same_as")
        return {key: one if key in fixed else hostile(one) for key, one in value.items()}
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_hostile_texts_stay_texts():
    clean, page = Page(render(example())), Page(render(hostile(example())))
    # The command has one span a word, and the hostile one has more words.
    shapes = [[(tag, set(attributes)) for tag, attributes in one.tags if tag != "span"] for one in (clean, page)]
    assert shapes[0] == shapes[1]
    assert page.row("lora" + HOSTILE)
    data = [text for _, attributes, text in page.scripts if attributes.get("type") == "application/json"]
    assert len(data) == 2
    for text in data:
        assert "<" not in text
        figure = json.loads(text)
        # script.html escapes it when it becomes one of plotly's texts.
        assert figure["labels"][1]["name"] == "lora" + HOSTILE
        for trace in figure["figure"]["data"]:
            assert "<script" not in trace["hovertext"][0] + trace["name"]
            assert trace["hovertemplate"] == "%{hovertext}<extra></extra>"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_what_is_not_finite_never_breaks_the_page(value):
    results = copy.deepcopy(example())
    rows = {one["method"]: one for one in results["rows"]}
    rows["lora"]["cells"]["score"] = {"mean": value, "se": value, "mark": None}
    rows["cola"]["cells"]["score"]["se"] = value
    rows["cla"]["cells"]["step_ms"]["mean"] = value
    rows["paca"]["cells"] = {column["key"]: {"mean": value, "se": None, "mark": None} for column in COLUMNS}
    results["wall_seconds"] = value
    page = Page(render(results))
    assert page.row("lora")[2]["text"] == "n/a"
    assert {cell["text"] for cell in page.row("paca")[1:]} == {"n/a"}
    assert "81.4" in page.row("cola")[2]["text"]
    for _, attributes, text in page.scripts:
        if attributes.get("type") == "application/json":
            assert not re.search(r"NaN|Infinity", text)
            json.loads(text)


def test_another_schema_and_another_unit_are_refused():
    with pytest.raises(ValueError, match="expected results of schema 1, received 2"):
        render({**example(), "schema": 2})
    results = example()
    results["columns"][1]["unit"] = "furlong"
    with pytest.raises(ValueError, match="received 'furlong'"):
        render(results)


def test_the_terminal_needs_no_plotly_and_the_page_says_that_it_does():
    code = """
import sys
sys.modules["plotly"] = sys.modules["jinja2"] = None
from pathlib import Path
import lopsided.report.terminal
try:
    lopsided.report.write_report({}, Path("unused.html"))
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "jinja2 is not installed; run: pip install 'lopsided[report]'" in done.stdout


def test_a_write_that_fails_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(example(), path)
    old = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_report({**example(), "title": "new"}, path)
    with pytest.raises(ValueError, match="schema"):
        write_report({**example(), "schema": 0}, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    write_report({**example(), "title": "new \udcff"}, path)
    assert "<h1>new ?</h1>" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]
