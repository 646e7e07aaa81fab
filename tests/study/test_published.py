"""The papers' figures next to ours."""

from __future__ import annotations

import pytest

from lopsided import METHODS
from lopsided.models.registry import MODELS
from lopsided.study.board_rows import Entry
from lopsided.study.leaderboard import leaderboard
from lopsided.study.outputs import csv_of, published_rows
from lopsided.study.published import TABLES, published_figures
from lopsided.tasks.registry import TASKS
from lopsided.tasks.task import LOCAL_NOTE
from tests.study.made_runs import TASK, made_run, seeds

MODEL, TASK_NAME = "roberta-large", "rte"
SOURCES = {"lr": "readme", "dropout": "code", "rank": "paper", "epochs": "unknown", "trajectory": "default"}


def board(tmp_path, method="asym_b", note="", **config):
    settings = {"model": MODEL, "task": TASK_NAME, "method": method, "rank": 8, **config}
    run = made_run(method, config=settings, task={**TASK, "note": note, "rows": {"test": 100}})
    return leaderboard([Entry(label=method, runs=tuple(seeds(tmp_path, [run, run])))])


def test_every_published_figure_is_of_a_known_model_task_and_method():
    figures = published_figures()
    assert len(figures) == 20 * 10 + 10 * 10 + 7 * 7
    assert {each.model for each in figures} <= MODELS.keys()
    assert {each.task for each in figures} <= TASKS.keys()
    assert {each.method for each in figures if ":" not in each.method} <= METHODS.keys()
    assert {each.table for each in figures} == TABLES.keys()
    metrics = {(each.task, each.metric) for each in figures if each.metric != "generalization_error"}
    assert all(TASKS[task].metric == metric for task, metric in metrics)


@pytest.mark.parametrize(
    ("model", "task", "method", "rank", "figure"),
    [
        ("roberta-large", "cola", "lora_plus", 16, 0.2880),
        ("gpt2", "e2e", "full", 16, 2.98),
        ("llama-3-8b", "openbookqa", "rc3la", 16, 0.5369),
        ("roberta-large", "rte", "asym_a", 8, 0.771),
        ("roberta-large", "rte", "peft:ia3", None, 0.703),
    ],
)
def test_figures_are_the_papers(model, task, method, rank, figure):
    cell = (model, task, method, rank)
    found = [each for each in published_figures() if (each.model, each.task, each.method, each.rank) == cell]
    assert [each.figure for each in found if each.table != "beyond_lora_3"] == [figure]


def test_ours_stands_next_to_the_papers_with_what_differs(tmp_path):
    rows = published_rows(board(tmp_path), MODEL, TASK_NAME, {(MODEL, TASK_NAME, "asym_b"): SOURCES})
    assert [row[:2] for row in rows] == [("asym_b", "test accuracy")]
    assert rows[0][3] == "82.8 %"
    assert rows[0][4:] == (TABLES["asymmetry_glue"].title, "not known from the paper: epochs")


def test_a_cell_that_is_the_papers_differs_in_nothing_that_is_known(tmp_path):
    sources = {(MODEL, TASK_NAME, "asym_b"): {"lr": "paper", "evaluations": "default"}}
    assert published_rows(board(tmp_path), MODEL, TASK_NAME, sources)[0][-1] == "nothing that is known"


def test_a_cut_of_the_rows_is_named(tmp_path):
    sources = {(MODEL, TASK_NAME, "asym_b"): {"lr": "paper"}}
    made = board(tmp_path, note=LOCAL_NOTE, train_size=1000)
    row = published_rows(made, MODEL, TASK_NAME, sources)[0]
    assert row[-1] == "rows of a local folder; at most 1,000 training rows"


def test_another_rank_another_model_and_a_twin_have_no_published_figure(tmp_path):
    made = board(tmp_path, rank=4)
    assert not published_rows(made, MODEL, TASK_NAME)
    same = board(tmp_path / "same")
    assert not published_rows(same, "roberta-base", TASK_NAME)
    assert not published_rows(same, f"twin:{MODEL}", TASK_NAME)
    # The hub's name is the same model.
    assert published_rows(same, MODELS[MODEL].hub, TASK_NAME)


def test_the_table_of_figures_has_a_column_of_published_ones(tmp_path):
    text = csv_of({(MODEL, TASK_NAME): board(tmp_path)}, {(MODEL, TASK_NAME, "asym_b"): SOURCES})
    heads, *lines = [line.split(",") for line in text.splitlines()]
    assert heads[-1] == "published"
    assert {line[heads.index("column")]: line[-1] for line in lines if line[-1]} == {"score": "0.828"}


def test_the_generalization_error_of_table_3_is_another_definition(tmp_path):
    run = made_run("lora", config={"model": "roberta-large", "task": "mrpc", "method": "lora", "rank": 16})
    made = leaderboard([Entry(label="lora", runs=tuple(seeds(tmp_path, [run, run])))])
    rows = published_rows(made, "deberta-v3-base", "mrpc")
    assert [row[4] for row in rows] == [TABLES["beyond_lora_2"].title, TABLES["beyond_lora_3"].title]
    assert rows[1][-1].startswith("another definition")
