"""One entry in `COLUMNS` is all that a new column needs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lopsided.report.gather import gather
from lopsided.report.page import render
from lopsided.report.terminal import print_table
from lopsided.study.columns import COLUMNS, Column, count
from lopsided.study.comparison import Comparison, board_of_comparison
from tests.study.made_runs import made_run, written


@pytest.fixture
def registered(monkeypatch):
    column = Column(
        key="adapter_share",
        title="adapter's share of what is kept",
        heading="share",
        unit="percent",
        better="low",
        figure=lambda run: count(run.adapter_bytes / run.kept_bytes),
        note="The share is made up for a test.",
    )
    monkeypatch.setitem(COLUMNS, column.key, column)


@pytest.mark.usefixtures("registered")
def test_a_column_is_in_results_json_the_terminal_and_the_page(tmp_path):
    runs = {name: [made_run(name, adapter_bytes=size)] for name, size in (("lora", 400), ("cla", 250))}
    folders = written(tmp_path, runs)
    for folder in (folder for members in folders.values() for folder in members):
        (folder / "run.json").write_text((folder / "run.json").read_text().replace('"machine": {}', MACHINE))
    comparison = Comparison(
        **{"folder": tmp_path, "names": tuple(runs), "seeds": (0,), "leaderboard": board_of_comparison(folders, {})},
        **dict.fromkeys(("command", "model", "task", "task_note", "task_shape", "created"), ""),
        **{"settings": {}, "machine": {}, "versions": {}, "wall_seconds": 1.0},
    )
    results = comparison.to_json()
    assert results["columns"][-1] == {
        **{"key": "adapter_share", "title": "adapter's share of what is kept"},
        **{"unit": "percent", "better": "low"},
    }
    assert [row["cells"]["adapter_share"] for row in results["rows"]] == [
        {"mean": 0.4, "se": None, "mark": None},
        {"mean": 0.25, "se": None, "mark": "best"},
    ]
    printed = io.StringIO()
    print_table(comparison, Console(file=printed, width=140))
    heading, lora, cla = (line.split() for line in printed.getvalue().splitlines()[1:4])
    assert (heading[-2:], lora[-1], cla[-2:]) == (["share", "%"], "40.0", ["●", "25.0"])
    page = render(gather([tmp_path], bounds=False))
    assert 'data-title="adapter&#39;s share of what is kept"' in page
    assert '<data value="0.25">25.0 %</data>' in page
    assert "The share is made up for a test." in page


MACHINE = '"machine": {"processor": "a processor", "cores": 2}'
