"""What the leaderboard makes of runs: rows, marks, and the sentences; on runs made up for the purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lopsided import METHODS
from lopsided.study.board_rows import Row
from lopsided.study.columns import UNTOLD
from lopsided.study.comparison import board_of_comparison
from lopsided.study.leaderboard import Leaderboard
from tests.study.made_runs import MadeRun, made_run, right, scored, written

REASON = "all predictions are equal, and nothing correlates with a constant"


def board_of(out: Path, runs: Mapping[str, Sequence[MadeRun | None]], **errors: str) -> Leaderboard:
    return board_of_comparison(written(out, runs), errors)


def marks(board: Leaderboard, key: str) -> dict[str, str | None]:
    return {row.label: row.cells[key].mark for row in board.rows}


def by_label(board: Leaderboard) -> dict[str, Row]:
    return {row.label: row for row in board.rows}


def test_best_and_tied_are_marked_and_the_floor_does_not_compete(tmp_path):
    runs = {
        "head": [made_run("head", right(first=99), trained_parameters=1)],
        "lora": [made_run("lora", right(first=90), trained_parameters=200)],
        "cla": [made_run("cla", right(first=88), trained_parameters=100)],
        "full": [made_run("full", right(first=60), trained_parameters=900)],
    }
    board = board_of(tmp_path, runs)
    assert [row.label for row in board.rows] == ["head", "lora", "cla", "full"]
    assert [row.floor for row in board.rows] == [True, False, False, False]
    assert marks(board, "score") == {"head": None, "lora": "best", "cla": "tied", "full": None}
    assert marks(board, "trained_parameters") == {"head": None, "lora": None, "cla": "best", "full": None}
    assert marks(board, "step_ms") == {"head": None, "lora": "best", "cla": "tied", "full": "tied"}
    places = {row.label: (row.cells["score"].rank, row.cells["score"].difference) for row in board.rows}
    assert places == {
        **{"head": (None, None), "lora": (1, 0.0)},
        **{"cla": (2, pytest.approx(-0.02)), "full": (3, pytest.approx(-0.3))},
    }
    # Three methods of equal cost are all the first.
    assert [row.cells["kept_bytes"].rank for row in board.rows] == [None, 1, 1, 1]
    # No domains, no column.
    assert [column.key for column in board.columns] == [
        "trained_parameters",
        "score",
        "generalization_error",
        "step_ms",
        "kept_bytes",
        "file_bytes",
    ]
    lora = board.rows[1]
    assert (lora.trains, lora.links, lora.method.source) == ("A and B", 1, METHODS["lora"].source)


def test_marks_are_by_seeds_when_there_are_several(tmp_path):
    runs = {
        "lora": [scored(s) for s in (0.8, 0.7, 0.9)],
        "cla": [scored(s) for s in (0.7, 0.6, 0.77)],
        "full": [scored(s) for s in (0.5, 0.7, 0.87)],
    }
    board = board_of(tmp_path, runs)
    assert marks(board, "score") == {"lora": "best", "cla": None, "full": "tied"}
    assert board.rows[0].seeds == (0, 1, 2)


def test_a_method_that_failed_has_no_row_and_does_not_compete(tmp_path):
    runs = {
        "lora": [scored(0.8), scored(0.8)],
        # One seed of two did not finish.
        "cla": [scored(0.9), None],
        # Its folders hold runs of other settings, which the error says.
        "full": [scored(0.95), scored(0.95)],
        "rcla": [None, None],
    }
    errors = {"cla": "the loss is nan at step 3", "full": "holds a run with rank=4, asked 3"}
    board = board_of(tmp_path, runs, **errors)
    assert {absence.label: absence.why for absence in board.absent} == {**errors, "rcla": "did not finish"}
    assert marks(board, "score") == {"lora": "best"}


def test_what_a_failed_method_left_is_not_read(tmp_path):
    folders = written(tmp_path, {"lora": [scored(0.8)], "cla": [scored(0.9)]})
    (folders["cla"][0] / "run.json").write_text("{")
    board = board_of_comparison(folders, {"cla": "not JSON"})
    assert [row.label for row in board.rows] == ["lora"]
    assert [absence.why for absence in board.absent] == ["not JSON"]


def test_nothing_finished(tmp_path):
    board = board_of(tmp_path, {"lora": [None]}, lora="why")
    assert (board.columns, board.rows, board.absent[0].why) == ((), (), "why")
    assert board.sentences == ("No method finished, so there is nothing to choose from.",)


def test_a_folder_without_a_run_is_a_method_that_did_not_finish(tmp_path):
    board = board_of_comparison({"lora": [tmp_path / "nowhere"]}, {})
    assert [(absence.label, absence.why) for absence in board.absent] == [("lora", "did not finish")]


def test_methods_of_equal_parts_are_named_as_the_same(tmp_path):
    runs = {name: [made_run(name)] for name in ("lora", "rcla", "paca", "lora_fa", "cpaca")}
    same = {row.label: row.same_as for row in board_of(tmp_path, runs).rows}
    assert same == {"lora": None, "rcla": None, "paca": "rcla", "lora_fa": None, "cpaca": None}


@pytest.mark.parametrize(
    "other", [{"learning_rate": 2e-3}, {"config": {"model": "m", "task": "t", "warmup": 0.2}}], ids=["rate", "setting"]
)
def test_another_learning_rate_or_setting_is_another_run(tmp_path, other):
    runs = {"rcla": [made_run("rcla")], "paca": [made_run("paca", **other)]}
    assert [row.same_as for row in board_of(tmp_path, runs).rows] == [None, None]


def test_of_equal_means_the_first_is_the_best(tmp_path):
    for number, order in enumerate((("lora", "cla"), ("cla", "lora"))):
        board = board_of(tmp_path / str(number), {name: [made_run(name)] for name in order})
        assert marks(board, "kept_bytes") == {order[0]: "best", order[1]: "tied"}
        assert board.decision.chosen == order[0]


# -- figures that could not be computed ----------------------------------------------------------------------


def undefined(method: str = "lora", why: dict[str, str] | None = None, **fields: Any) -> MadeRun:
    """A run whose test score is not defined, as this version records it, or with NaN as version 0.1.0 did."""
    number = None if why else float("nan")
    figures = {"score": number, "se": number, "loss": 1.0, "rows": 100, **({"why": why} if why else {})}
    return made_run(method, metrics={"test": figures}, **fields)


@pytest.mark.parametrize("why", [{"score": REASON, "se": REASON}, None])
@pytest.mark.parametrize("order", [("lora", "cla", "full"), ("cla", "lora", "full"), ("full", "cla", "lora")])
def test_a_score_that_is_missing_is_never_the_best(tmp_path, why, order):
    made = {"lora": [undefined(why=why)], "cla": [scored(0.9)], "full": [scored(0.6)]}
    board = board_of(tmp_path, {name: made[name] for name in order})
    cells = {label: row.cells["score"] for label, row in by_label(board).items()}
    assert (cells["lora"].mean, cells["lora"].se, cells["lora"].mark, cells["lora"].rank) == (None, None, None, None)
    assert cells["lora"].why["mean"] == (REASON if why else UNTOLD)
    assert (cells["cla"].mark, cells["full"].mark) == ("best", None)
    # Its other figures compete as before.
    assert all(marks(board, "step_ms").values())
    assert board.sentences[0].startswith("Take cla: its test accuracy is at most 0 points worse than the best, at 95 %")
    assert board.sentences[0].endswith("Without a test accuracy, and left out: lora.")


def test_no_score_at_all_is_said(tmp_path):
    board = board_of(tmp_path, {"lora": [undefined()], "cla": [undefined("cla")]})
    assert "score" in [column.key for column in board.columns]
    assert marks(board, "score") == {"lora": None, "cla": None}
    assert board.sentences == ("No method has a test accuracy, so there is nothing to choose from.",)


def test_a_step_time_that_is_missing_does_not_take_the_column_from_the_others(tmp_path):
    untimed = {"median_ms": None, "se_ms": None, "steps": 0, "why": {"median_ms": "no step was timed"}}
    board = board_of(tmp_path, {"lora": [made_run(timings=untimed)], "cla": [made_run("cla")]})
    assert "step_ms" in [column.key for column in board.columns]
    assert board.rows[0].cells["step_ms"].why == {"mean": "no step was timed"}
    assert marks(board, "step_ms") == {"lora": None, "cla": "best"}
    assert board.decision.chosen == "lora"


def test_a_figure_that_concerns_other_methods_alone_says_so(tmp_path):
    board = board_of(tmp_path, {"lora": [made_run(generalization_error=None)], "cla": [made_run("cla")]})
    assert board.rows[0].cells["generalization_error"].why == {"mean": "this run does not have it"}
