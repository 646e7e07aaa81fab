"""`lopsided advise`, from end to end, and what it says of bad input."""

from __future__ import annotations

import json

import pytest

from lopsided.advise import distinct
from lopsided.report.gather import gather
from lopsided.report.plain_tables import advice_tables
from tests.cli.commands import assert_one_line
from tests.report.fabricated import fabricate_run
from tests.tiny_runs import BERT_LAYERS

pytest.importorskip("matplotlib")


@pytest.fixture
def asked(bert, words):
    return ["advise", "--model", bert, "--task", words, "--rank", 4, "--batch-size", 8, "--max-length", 16]


def test_a_table_a_file_and_plots(cli, asked, tmp_path):
    outcome = cli(*asked, "--head-steps", 5, "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"advice.json", "layers.svg"}
    result = json.loads((tmp_path / "out" / "advice.json").read_text())
    # The report takes the folder as it is.
    [table] = advice_tables(gather([fabricate_run(tmp_path / "cla", "cla", 0), tmp_path / "out"], bounds=False).advice)
    assert len(table.rows) == len(result["best"])
    names = [method.name for method in distinct()]
    assert "totals" not in result
    assert {row["method"] for row in result["rows"]} == set(names)
    assert all(row["module"] in outcome.out for row in result["rows"])
    assert len(result["rows"]) == len(BERT_LAYERS) * len(names)
    assert result["best"].keys() == {row["module"] for row in result["rows"]}
    assert (result["predictions"], result["settings"]["head_steps"]) == (32, 5)
    assert "asym_b (trains B)" in (tmp_path / "out" / "layers.svg").read_text()


def test_json_and_chosen_methods(cli, asked, tmp_path):
    options = ["--methods", "cla,asym_a", "--batches", 2, "--head-steps", 0, "--json", "--out", tmp_path / "out"]
    outcome = cli(*asked, *options)
    result = json.loads(outcome.out)
    assert (outcome.status, {row["method"] for row in result["rows"]}) == (0, {"cla", "asym_a"})
    assert result["predictions"] == 16


def test_first_rates_of_chosen_methods(cli, asked, tmp_path):
    outcome = cli(*asked, "--rates", "--methods", "cla,head", "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert "begin a search here" in " ".join(outcome.out.split())
    result = json.loads((tmp_path / "out" / "rates.json").read_text())
    assert [(rate["method"], rate["how"]) for rate in result["rates"]] == [("cla", "curvature"), ("head", "curvature")]
    assert all(f"{rate['value']:g}" in outcome.out for rate in result["rates"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batches", 0], "expected at least 2 batches, got 0"),
        (["--methods", "c3al"], "unknown method 'c3al'"),
        (["--methods", "head"], "method 'head' is no adapter"),
        (["--damping", -1], "damping must be"),
        (["--seeds", 0], "seeds must be"),
        (["--head-steps", -1], "head_steps must be"),
        (["--batch-size", 64], "expected rows for at least 2 batches"),
        (["--rank", 0], "rank must be at least 1"),
        (["--rates", "--batches", 3], "are about layers, got --rates; leave them out"),
        (["--rates", "--methods", "c3al"], "unknown method 'c3al'"),
    ],
)
def test_bad_input(cli, asked, tmp_path, options, message):
    assert_one_line(cli(*asked, *options, "--out", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


def test_a_task_without_labels(cli, bert, tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"text": "river"}\n')
    assert_one_line(cli("advise", "--model", bert, "--task", tmp_path, "--out", tmp_path / "out"), "label")
