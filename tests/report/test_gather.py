"""Folders -> plain data."""

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


def table(gathered, task="vader/movie"):
    return next(group for group in gathered["groups"] if group["task"] == task)


def row(gathered, label, task="vader/movie"):
    return next(row for row in table(gathered, task)["rows"] if row["label"] == label)


def edit(folder, **changes):
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, **changes}))


def test_means_and_intervals_are_those_of_run_json(gathered, study):
    records = [json.loads((study / "runs" / f"c3la-seed{seed}" / "run.json").read_text()) for seed in (0, 1, 2)]
    scores = [record["metrics"]["test"]["score"] for record in records]
    cell = row(gathered, "c3la")["cells"]["score"]
    assert cell["mean"] == pytest.approx(np.mean(scores))
    low, high = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
    assert (cell["mean"] - cell["half"], cell["mean"] + cell["half"]) == (pytest.approx(low), pytest.approx(high))
    assert row(gathered, "c3la")["seeds"] == [0, 1, 2]
    assert row(gathered, "c3la")["cells"]["trained_parameters"] == {
        **{"mean": 338_690, "half": None, "rank": 1, "difference": 0},
        "mark": "best",
    }


def test_it_is_json_and_a_pure_function(gathered, study):
    assert json.loads(json.dumps(gathered, allow_nan=False)) == json.loads(json.dumps(gather([study])))


def test_other_tasks_models_and_settings_are_never_averaged(gathered, tmp_path):
    assert [(t["model"], t["task"]) for t in gathered["groups"]] == [
        ("embedded", "vader/nyt"),
        ("embedded", "vader/movie"),
    ]
    assert row(gathered, "lora", "vader/nyt")["seeds"] == [0]
    fabricate_run(tmp_path / "a", "lora", 0, rank=4)
    fabricate_run(tmp_path / "b", "lora", 1, rank=16)
    fabricate_run(tmp_path / "c", "lora", 0, model="another")
    found = gather([tmp_path], bounds=False)
    assert [[row["label"] for row in t["rows"]] for t in found["groups"]] == [
        ["lora, rank 4", "lora, rank 16"],
        ["lora"],
    ]
    assert all(len(row["seeds"]) == 1 for t in found["groups"] for row in t["rows"])
    # Seeds that they have not in common can't tell them apart.
    assert {row["cells"]["score"]["mark"] for row in found["groups"][0]["rows"]} == {"best", "tied"}


def test_places_and_what_the_seeds_support(gathered):
    rows = [r for r in table(gathered)["rows"] if not r["floor"]]
    by_score = sorted(rows, key=lambda r: -r["cells"]["score"]["mean"])
    assert [r["cells"]["score"]["rank"] for r in by_score] == [1, 2, 3]
    assert by_score[0]["cells"]["score"]["mark"] == "best"
    best = by_score[0]["cells"]["score"]["mean"]
    assert by_score[2]["cells"]["score"]["difference"] == pytest.approx(by_score[2]["cells"]["score"]["mean"] - best)
    head = row(gathered, "head")["cells"]["score"]
    assert (head["rank"], head["mark"], head["difference"]) == (None, None, None)


def test_failed_and_unfinished_runs_are_shown_with_their_error(gathered):
    absent = {one["run"]: one["why"] for one in table(gathered)["absent"]}
    assert absent["paca-seed0"].startswith("failed: the loss is not finite at step 7")
    assert absent["paca-seed1"].startswith("cut off: its process ended without a word")
    assert "paca" not in [r["label"] for r in table(gathered)["rows"]]


def test_a_run_twice_is_one_run_and_a_second_of_a_seed_is_left_out(tmp_path):
    first = fabricate_run(tmp_path / "a" / "cla", "cla", 0)
    shutil.copytree(first, tmp_path / "b")
    again = fabricate_run(tmp_path / "c", "cla", 0)
    edit(again, wall_seconds=1.0)
    found = gather([tmp_path, first], bounds=False)
    assert [run["name"] for run in found["runs"]] == ["cla", "c"]
    assert "holds the same run as" in found["notes"][0]
    assert found["groups"][0]["absent"][0]["why"].startswith("another run with seed 0")


def test_what_is_not_finite_is_a_gap_and_counted(tmp_path):
    folder = fabricate_run(tmp_path / "cla", "cla", 0)
    record = json.loads((folder / "run.json").read_text())
    record["metrics"]["test"]["score"] = math.nan
    record["history"][0]["loss"] = math.inf
    edit(folder, metrics=record["metrics"], history=record["history"])
    fabricate_run(tmp_path / "lora", "lora", 0)
    found = gather([tmp_path], bounds=False)
    assert found["not_finite"] == 2
    assert row(found, "cla")["cells"]["score"]["mean"] is None
    assert row(found, "lora")["cells"]["score"]["rank"] == 1
    assert found["runs"][0]["train"][0] == [5, None]
    json.dumps(found, allow_nan=False)


def test_bounds_and_the_reason_where_there_is_none(gathered, tmp_path):
    runs = {run["name"]: run for run in gathered["runs"]}
    assert runs["lora-seed0"]["bound"]["value"] > runs["cla-seed0"]["bound"]["value"] > 0
    # The head alone trains its own numbers: 2 x 384 and 2.
    assert runs["head-seed0"]["bound"]["trained"] == 770
    fabricate_run(tmp_path / "far", "cla", 0, model=str(tmp_path / "not-here"))
    far = gather([tmp_path])["runs"][0]
    assert far["bound"] is None
    assert "not-here" in far["bound_note"]


def test_a_diagnosis_of_another_state_or_schema_is_left_out_and_said(tmp_path):
    folder = fabricate_run(tmp_path / "cla", "cla", 0)
    diagnose_runs([folder])
    assert gather([tmp_path], bounds=False)["runs"][0]["diagnosis"]["run"]["id"] == identity(folder)
    edit(folder, wall_seconds=2.0)
    run = gather([tmp_path], bounds=False)["runs"][0]
    assert run["diagnosis"] is None
    assert "is of an earlier state: run `lopsided diagnose" in run["diagnosis_note"]
    (folder / "diagnosis.json").write_text('{"schema": 9}')
    assert "not of schema 1" in gather([tmp_path], bounds=False)["runs"][0]["diagnosis_note"]


def test_the_command_that_makes_a_run_again(tmp_path):
    settings = {"rank": 4, "bf16": True, "rename_labels": {"a": "b c"}, "ignore_columns": ["id", "by whom"]}
    lone = fabricate_run(tmp_path / "lone", "cla", 3, **settings)
    run = gather([lone], bounds=False)["runs"][0]
    assert run["command"] == (
        "lopsided train --method cla --rank 4 --rename-labels 'a=b c' --ignore-columns 'id,by whom' --steps 60 "
        "--bf16 --seed 3"
    )
    assert "no option for train_rows=400" in run["command_note"]
    compared = fabricate_run(tmp_path / "study" / "runs" / "cla-seed0", "cla", 0)
    (tmp_path / "study" / "results.json").write_text('{"command": "lopsided compare --rank 8"}')
    assert gather([compared], bounds=False)["runs"][0]["command"] == "lopsided compare --rank 8"


def test_runs_without_test_figures_are_said_to_be(tmp_path):
    folder = fabricate_run(tmp_path / "cla", "cla", 0)
    metrics = json.loads((folder / "run.json").read_text())["metrics"]
    edit(folder, metrics={key: metrics[key] for key in ("train", "validation")}, generalization_error=None)
    found = gather([tmp_path], bounds=False)["groups"][0]
    assert (found["rows"], found["columns"]) == ([], [])
    assert found["absent"][0]["why"] == "made without test figures"


def test_lab_and_advice_among_the_folders(tmp_path):
    run = fabricate_run(tmp_path / "cla", "cla", 0)
    for name, held in (("lab", "result.json"), ("advice", "advice.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / held).write_text('{"schema": 1, "rows": [NaN]}')
    found = gather([run, tmp_path / "lab", tmp_path / "advice"], bounds=False)
    assert [len(found[key]) for key in ("runs", "lab", "advice")] == [1, 1, 1]
    assert found["lab"][0]["rows"] == [None]
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
