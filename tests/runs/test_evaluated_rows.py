"""How many rows a run is evaluated on: the same ones for every method and seed, and the records say so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lopsided import LopsidedError
from lopsided.runs import load_data, read_run
from lopsided.runs.evaluated_rows import evaluated_rows, rows_note
from lopsided.study.by_task import leaderboards_by_task
from tests.tiny_runs import tiny_config


def test_test_rows_are_limited_by_lot_and_the_note_says_so(run_once, bert, words):
    options = {"model": bert, "task": words, "steps": 4, "test_rows": 14}
    runs = [read_run(run_once(method=name, seed=seed, **options)[0]) for name, seed in (("cla", 0), ("lora", 1))]
    first, second = (run.predictions["test"] for run in runs)
    assert len(first["label"]) == 14
    assert np.array_equal(first["label"], second["label"])
    note = "evaluated on 14 of 40 rows of test, drawn once for all methods and seeds"
    assert all(run.task.note.endswith(note) and run.settings["test_rows"] == 14 for run in runs)
    assert [board.note.endswith(note) for board in leaderboards_by_task(runs)] == [True]


def test_rows_of_other_domains_are_limited_as_those_of_test_are(tmp_path, bert, words):
    config = tiny_config(tmp_path, model=bert, task=words, test_rows=3)
    data = load_data(config)
    others = {"far": data.encoded.splits["train"], "near": data.encoded.splits["test"].select(range(2))}
    texts = {"far": data.task.splits["train"], "near": data.task.splits["test"].select(range(2))}
    data = dataclasses.replace(
        data,
        task=dataclasses.replace(data.task, out_of_domain=texts),
        encoded=dataclasses.replace(data.encoded, out_of_domain=others),
    )
    rows = evaluated_rows(config, data)
    assert all(each.encoded["labels"][:] == each.texts["label"][:] for each in rows.values())
    assert {name: len(each.texts) for name, each in rows.items()} == {
        "train": 64,
        "validation": 32,
        "test": 3,
        "far": 3,
        "near": 2,
    }
    # By lot: the first rows of a data set that is sorted by label would be of one class.
    assert rows["far"].encoded["input_ids"][:] != data.encoded.splits["train"].select(range(3))["input_ids"][:]
    assert "evaluated on 3 of 40 rows of test, 3 of 64 rows of far, drawn once" in rows_note(config, data)
    assert rows_note(dataclasses.replace(config, test=False), data) == data.task.note


def test_runs_that_were_evaluated_on_other_rows_are_on_another_board(run_once, bert, words):
    options = {"model": bert, "task": words, "method": "cla", "steps": 4}
    several = ({}, {"test_rows": 14}, {"test_rows": 400, "seed": 1})
    boards = leaderboards_by_task([read_run(run_once(**options, **more)[0]) for more in several])
    assert [[run.settings["test_rows"] for run in board.runs] for board in boards] == [[None, 400], [14]]


def test_no_rows_at_all_are_refused(tmp_path):
    with pytest.raises(LopsidedError, match="test_rows must be at least 1, got 0"):
        tiny_config(tmp_path, test_rows=0)
