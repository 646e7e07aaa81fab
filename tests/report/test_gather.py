"""Folders become leaderboards, runs, and the results of other verbs."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from scipy import stats

from lopsided import LopsidedError
from lopsided.report.gather import gather
from tests.report.fabricated import diagnose_runs, fabricate_run, identity


def board(gathered, task="vader/movie"):
    return next(board for board in gathered.boards if board.task == task)


def row(gathered, label, task="vader/movie"):
    return next(row for row in board(gathered, task).leaderboard.rows if row.label == label)


def edit(folder, **changes):
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, **changes}))


def test_means_and_intervals_are_those_of_run_json(gathered, study):
    records = [json.loads((study / "runs" / f"c3la-seed{seed}" / "run.json").read_text()) for seed in (0, 1, 2)]
    scores = [record["metrics"]["test"]["score"] for record in records]
    cell = row(gathered, "c3la").cells["score"]
    assert cell.mean == pytest.approx(np.mean(scores))
    low, high = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
    assert (cell.mean - cell.half, cell.mean + cell.half) == (pytest.approx(low), pytest.approx(high))
    assert row(gathered, "c3la").seeds == (0, 1, 2)
    movie = next(group for group in gathered.to_json()["groups"] if group["task"] == "vader/movie")
    assert next(row for row in movie["rows"] if row["label"] == "c3la")["cells"]["trained_parameters"] == {
        **{"mean": 338_690, "half": None, "rank": 1, "difference": 0},
        "mark": "best",
    }


def test_it_is_json_and_a_pure_function(gathered, study):
    plain = gathered.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == json.loads(json.dumps(gather([study]).to_json()))
    assert [len(plain[key]) for key in ("groups", "runs")] == [2, 16]


def test_other_tasks_models_and_settings_are_never_averaged(gathered, tmp_path):
    assert [(board.model, board.task) for board in gathered.boards] == [
        ("embedded", "vader/nyt"),
        ("embedded", "vader/movie"),
    ]
    assert row(gathered, "lora", "vader/nyt").seeds == (0,)
    fabricate_run(tmp_path / "a", "lora", 0, rank=4)
    fabricate_run(tmp_path / "b", "lora", 1, rank=16)
    fabricate_run(tmp_path / "c", "lora", 0, model="another")
    found = gather([tmp_path], bounds=False)
    rows = [board.leaderboard.rows for board in found.boards]
    assert [[row.label for row in each] for each in rows] == [
        ["lora, rank 4", "lora, rank 16"],
        ["lora"],
    ]
    assert all(len(row.seeds) == 1 for each in rows for row in each)
    # Seeds that they have not in common can't tell them apart.
    assert {row.cells["score"].mark for row in rows[0]} == {"best", "tied"}


def test_places_and_what_the_seeds_support(gathered):
    scores = [row.cells["score"] for row in board(gathered).leaderboard.rows if not row.floor]
    scores.sort(key=lambda cell: -cell.mean)
    assert [cell.rank for cell in scores] == [1, 2, 3]
    assert scores[0].mark == "best"
    assert scores[2].difference == pytest.approx(scores[2].mean - scores[0].mean)
    head = row(gathered, "head").cells["score"]
    assert (head.rank, head.mark, head.difference) == (None, None, None)


def test_failed_and_unfinished_runs_are_shown_with_their_error(gathered):
    absent = {absence.run.name: absence.why for absence in board(gathered).leaderboard.absent}
    assert absent["paca-seed0"].startswith("failed: the loss is not finite at step 7")
    assert absent["paca-seed1"].startswith("cut off: its process ended without writing why")
    assert "paca" not in [row.label for row in board(gathered).leaderboard.rows]


def test_a_run_twice_is_one_run_and_a_second_of_a_seed_is_left_out(tmp_path):
    first = fabricate_run(tmp_path / "a" / "cla", "cla", 0)
    shutil.copytree(first, tmp_path / "b")
    again = fabricate_run(tmp_path / "c", "cla", 0)
    edit(again, wall_seconds=1.0)
    found = gather([tmp_path, first], bounds=False)
    assert [reported.run.name for reported in found.runs] == ["cla", "c"]
    assert "holds the same run as" in found.notes[0]
    assert found.boards[0].leaderboard.absent[0].why.startswith("another run with seed 0")


def test_what_is_not_finite_is_a_gap_and_counted(tmp_path):
    folder = fabricate_run(tmp_path / "cla", "cla", 0)
    record = json.loads((folder / "run.json").read_text())
    record["metrics"]["test"]["score"] = math.nan
    record["history"][0]["loss"] = math.inf
    edit(folder, metrics=record["metrics"], history=record["history"])
    fabricate_run(tmp_path / "lora", "lora", 0)
    found = gather([tmp_path], bounds=False)
    assert found.not_finite == 2
    assert row(found, "cla").cells["score"].mean is None
    assert row(found, "lora").cells["score"].rank == 1
    plain = found.to_json()
    assert plain["runs"][0]["train"][0] == [5, None]
    json.dumps(plain, allow_nan=False)


def test_bounds_and_the_reason_where_there_is_none(gathered, tmp_path):
    bounds = {reported.run.name: reported.bound for reported in gathered.runs}
    assert bounds["lora-seed0"].value > bounds["cla-seed0"].value > 0
    # The head alone trains its own numbers: 2 x 384 and 2.
    assert bounds["head-seed0"].trained == 770
    fabricate_run(tmp_path / "far", "cla", 0, model=str(tmp_path / "not-here"))
    far = gather([tmp_path]).runs[0]
    assert far.bound is None
    assert "not-here" in far.bound_note


def test_a_diagnosis_of_another_state_or_schema_is_left_out_and_said(tmp_path):
    folder = fabricate_run(tmp_path / "cla", "cla", 0)
    diagnose_runs([folder])
    assert gather([tmp_path], bounds=False).to_json()["runs"][0]["diagnosis"]["run"]["id"] == identity(folder)
    edit(folder, wall_seconds=2.0)
    run = gather([tmp_path], bounds=False).to_json()["runs"][0]
    assert run["diagnosis"] is None
    assert "is of an earlier state: run `lopsided diagnose" in run["diagnosis_note"]
    (folder / "diagnosis.json").write_text('{"schema": 9}')
    assert "not of schema 1" in gather([tmp_path], bounds=False).to_json()["runs"][0]["diagnosis_note"]


def test_the_command_that_made_a_run(tmp_path):
    """A comparison's is in its results, a run's own in its record; nothing makes up one that was not recorded."""

    def command(folder):
        [reported] = gather([folder], bounds=False).runs
        return reported.command, reported.command_note

    lone = fabricate_run(tmp_path / "lone", "cla", 3)
    assert command(lone) == (None, "no command was recorded")
    edit(lone, command="lopsided train --seed 3")
    assert command(lone) == ("lopsided train --seed 3", None)
    compared = fabricate_run(tmp_path / "study" / "runs" / "cla-seed0", "cla", 0)
    for text in ('{"command": "lopsided compare --rank 8"}', "another program's", "[]", '{"rows": []}'):
        (tmp_path / "study" / "results.json").write_text(text)
        known = "compare" in text
        assert command(compared) == (
            ("lopsided compare --rank 8", None) if known else (None, "no command was recorded")
        )


def test_of_equal_methods_the_page_takes_the_one_that_the_comparison_took(tmp_path):
    """Folders come in the order of their names, and a comparison's table in the order of its methods."""
    for method in ("rcla", "paca"):
        fabricate_run(tmp_path / "runs" / f"{method}-seed0", method, 0)
        folder = tmp_path / "runs" / f"{method}-seed0"
        if method == "rcla":
            kept = json.loads((folder / "run.json").read_text())
        else:
            edit(folder, **{key: kept[key] for key in ("metrics", "generalization_error", "timings")})
            shutil.copy(tmp_path / "runs" / "rcla-seed0" / "predictions.npz", folder)

    def told():
        table = gather([tmp_path], bounds=False).boards[0].leaderboard
        return table.sentences[0].split(":")[0], {row.label: row.same_as for row in table.rows}

    assert told() == ("Take paca", {"paca": None, "rcla": "paca"})
    rows = [{"method": "rcla"}, {"method": "paca"}]
    (tmp_path / "results.json").write_text(json.dumps({"command": "lopsided compare", "rows": rows}))
    assert told() == ("Take rcla", {"paca": "rcla", "rcla": None})


def test_runs_without_test_figures_are_said_to_be(tmp_path):
    folder = fabricate_run(tmp_path / "cla", "cla", 0)
    metrics = json.loads((folder / "run.json").read_text())["metrics"]
    edit(folder, metrics={key: metrics[key] for key in ("train", "validation")}, generalization_error=None)
    table = gather([tmp_path], bounds=False).boards[0].leaderboard
    assert (table.rows, table.columns) == ((), ())
    assert table.absent[0].why == "made without test figures"


def test_lab_and_advice_among_the_folders(tmp_path):
    run = fabricate_run(tmp_path / "cla", "cla", 0)
    for name, held in (("lab", "result.json"), ("advice", "advice.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / held).write_text('{"schema": 1, "rows": [NaN]}')
    found = gather([run, tmp_path / "lab", tmp_path / "advice"], bounds=False)
    assert [len(held) for held in (found.runs, found.lab, found.advice)] == [1, 1, 1]
    assert found.to_json()["lab"][0]["rows"] == [None]
    (tmp_path / "lab" / "result.json").write_text("{")
    with pytest.raises(LopsidedError, match=r"result\.json:1: not JSON"):
        gather([tmp_path], bounds=False)


@pytest.mark.parametrize("held", [None, "empty", "file", "other", "lab", "broken", "schema", "part"])
def test_bad_folders_are_one_line(held, tmp_path):
    path = tmp_path / "given"
    said = {
        **{None: "is not there", "empty": "an empty folder", "file": "is a file", "other": "1 other entries"},
        **{"lab": "no runs", "broken": "not JSON", "schema": "not a run of schema 1", "part": "is not a whole run"},
    }[held]
    if held == "file":
        path.write_text("")
    elif held is not None:
        path.mkdir()
    files = {
        "other": ("notes.txt", ""),
        "lab": ("result.json", '{"schema": 1}'),
        "broken": ("run.json", "{"),
        "schema": ("run.json", '{"schema": 2}'),
        "part": ("run.json", '{"schema": 1, "status": "finished", "config": {}}'),
    }
    if held in files:
        (path / files[held][0]).write_text(files[held][1])
    with pytest.raises(LopsidedError, match=said) as caught:
        gather([path], bounds=False)
    assert "\n" not in str(caught.value)
