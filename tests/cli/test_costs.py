"""`lopsided costs`, from end to end."""

from __future__ import annotations

import json

from tests.cli.commands import assert_one_line


def test_a_table_and_a_file(cli, bert, words, tmp_path):
    asked = ["costs", "--model", bert, "--task", words, "--rank", 4, "--batch-size", 8, "--max-length", 16]
    outcome = cli(*asked, "--methods", "cla,head", "--rounds", 2, "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    result = json.loads((tmp_path / "out" / "costs.json").read_text())
    assert [line["method"] for line in result["methods"]] == ["cla", "head"]
    assert all(f"{line['step_time']['value']:.2f} [" in outcome.out for line in result["methods"])
    assert "twin" in outcome.out
    assert_one_line(cli(*asked, "--methods", "c3al", "--out", tmp_path / "no"), "unknown method 'c3al'")
    assert_one_line(cli(*asked, "--rounds", 1, "--out", tmp_path / "no"), "at least 2 rounds")
    assert not (tmp_path / "no").exists()
