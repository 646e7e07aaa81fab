"""The figure of scores over the learning rates that were tried, and what tables say of rates."""

from __future__ import annotations

import json

import pytest

from lopsided.plotting.figure import DrawnRate
from lopsided.report.board_view import board_view
from lopsided.report.figure_list import figures
from lopsided.report.gather import gather
from lopsided.report.rate_curves import near_the_best, rates_meaning
from lopsided.runs import read_run
from lopsided.study.columns import SCORE, columns_of
from lopsided.study.results import RESULTS, append
from tests.report.fabricated import fabricate_run

SCORES = {"lora": {1e-4: 0.7, 1e-3: 0.9, 1e-2: None}, "cla": {3e-4: 0.881, 3e-3: 0.89, 3e-2: 0.885}}


def line(run, role, score):
    """A line of results about a run, with another validation score."""
    settings = {key: value for key, value in run.settings.items() if value is not None}
    record = run.to_json()
    record["metrics"] = {**record["metrics"], "validation": {**record["metrics"]["validation"], "score": score}}
    return {
        **dict.fromkeys(("sources", "model_fingerprint", "task_fingerprint", "numerics", "ended")),
        **{name: settings.pop(name) for name in ("model", "task", "method", "seed")},
        "schema": 1,
        "cell": run.folder.name,
        "role": role,
        "status": "failed" if score is None else "finished",
        "reason": "the loss is not finite" if score is None else None,
        "settings": settings,
        "folder": run.folder.name,
        "record": None if score is None else record,
        "rows": None if score is None else {},
    }


@pytest.fixture
def tuned(tmp_path):
    """Runs of three methods on one task, and of one on another; trials for two of the methods on the first."""
    for method in ("head", "lora", "cla"):
        fabricate_run(tmp_path / "runs" / f"{method}-seed0", method, 0)
    fabricate_run(tmp_path / "runs" / "lora-other", "lora", 0, task="vader/nyt")
    for method, scores in SCORES.items():
        for rate, score in scores.items():
            folder = fabricate_run(tmp_path / "trials" / f"{method}-lr{rate:g}", method, 0, lr=rate)
            append(tmp_path / RESULTS, line(read_run(folder), "trial", score))
    # Of other settings than the runs have: an earlier search in this folder.
    folder = fabricate_run(tmp_path / "trials" / "earlier", "lora", 0, lr=1e-3, rank=2)
    append(tmp_path / RESULTS, line(read_run(folder), "trial", 0.99))
    append(tmp_path / RESULTS, line(read_run(tmp_path / "runs" / "lora-seed0"), "run", 0.5))
    return gather([tmp_path], bounds=False)


def drawn(gathered, task):
    board = next(board for board in gathered.boards if board.task == task)
    members = [reported for reported in gathered.runs if reported.group == board.key]
    return board, {figure.key.partition("-")[2]: figure for figure in figures(board, members)}


def test_trials_are_a_figure_and_no_rows(tuned):
    assert len(tuned.runs) == 4
    board, of_movie = drawn(tuned, "vader/movie")
    [view] = of_movie["rates"].views
    lines = {each["label"]: dict(zip(each["x"], each["y"])) for each in view["series"]}
    assert lines == SCORES
    assert (view["x"]["log"], view["y"]["title"]) == (True, "validation accuracy")
    assert "lora 1 of 3" in of_movie["rates"].means
    assert "cla 3 of 3" in of_movie["rates"].means
    for sentence in (of_movie["rates"].shows, of_movie["rates"].means):
        assert sentence.endswith(".")
        assert ". " not in sentence.removesuffix(".")
    json.dumps(tuned.to_json(), allow_nan=False)
    assert tuned.to_json()["groups"][0]["rates"]["lora"][2]["why"] == "the loss is not finite"
    assert any("the best of 3 that were tried" in note for note in board_view(board, [], []).notes)


def test_where_nothing_was_tuned_there_is_no_figure(tuned, gathered):
    _, of_nyt = drawn(tuned, "vader/nyt")
    assert "rates" not in of_nyt
    for board in gathered.boards:
        assert any("not tuned; with tuned rates" in note for note in board_view(board, [], []).notes)


def test_rates_near_the_best_are_counted():
    accuracy = next(each for each in columns_of("accuracy", True) if each.key == SCORE)
    perplexity = next(each for each in columns_of("perplexity", False) if each.key == SCORE)
    trials = [DrawnRate(rate=rate, score=score) for rate, score in ((1.0, 0.5), (2.0, 0.51), (3.0, 0.49), (4.0, None))]
    assert near_the_best(trials, accuracy) == (2, 4)
    trials = [DrawnRate(rate=rate, score=score) for rate, score in ((1.0, 50.0), (2.0, 50.4), (3.0, 51.0))]
    assert near_the_best(trials, perplexity) == (2, 3)
    assert near_the_best([DrawnRate(rate=1.0, score=None)], accuracy) == (0, 1)


def test_what_the_counts_mean():
    assert "for lora only one rate works, and it has to be found" in rates_meaning({"lora": (1, 5), "cla": (4, 5)})
    assert "none works at one rate only" in rates_meaning({"lora": (2, 5), "cla": (4, 5)})
    assert "for each of them only one rate works" in rates_meaning({"lora": (1, 5), "cla": (1, 5)})
