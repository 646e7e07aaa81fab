"""What a study shows of its progress, at a terminal and in a pipe."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from lopsided.study.cell import Cell
from lopsided_cli.study_progress import StudyLines, comparing, progress
from tests.study.made_runs import scored
from tests.tiny_runs import tiny_config

PLAN = SimpleNamespace(study=SimpleNamespace(title="Two methods"))


@pytest.fixture
def ended(tmp_path):
    """Makes a cell and what became of it."""

    def make(method, seed, score=None, *, role="run"):
        config = tiny_config(tmp_path, model="m", task="t", method=method, seed=seed)
        cell = Cell(
            config=config, method=config.resolve_method(), model_fingerprint="m", task_fingerprint="t", role=role
        )
        if score is None:
            return cell, SimpleNamespace(is_finished=False, status="failed", reason="out of memory")
        run = scored(score).write(tmp_path / f"{method}{seed}{role}", seed)
        return cell, SimpleNamespace(is_finished=True, status="finished", reason="", run=run)

    return make


def test_a_pipe_gets_a_line_per_cell_that_ends_now(ended):
    file = io.StringIO()
    with progress(Console(file=file)) as shown:
        assert isinstance(shown, StudyLines)
        shown.begin(PLAN)
        shown.tell(*ended("lora", 0, 0.5), False)
        shown.start(3)
        shown.tell(*ended("lora", 1, 0.75), True)
        shown.tell(*ended("cla", 0), True)
    first, second, third = file.getvalue().splitlines()
    assert first == "Two methods: 3 cells, 1 of them before now, 2 to be made"
    assert second.startswith("2 of 3, ")
    assert second.endswith(" left | lora on t with m, seed 1: test accuracy 0.7500")
    assert third == "3 of 3 | cla on t with m, seed 0: failed: out of memory"


def test_a_terminal_has_the_bars_and_the_leaderboard_so_far(ended):
    file = io.StringIO()
    with progress(Console(file=file, force_terminal=True, width=100, height=14)) as shown:
        shown.begin(PLAN)
        shown.tell(*ended("lora", 0, 0.5), False)
        shown.start(9)
        shown.tell(*ended("lora", 1, 0.75), True)
        cell, result = ended("cla", 0, 0.25)
        [bar] = shown.callbacks(cell)
        bar.begin(SimpleNamespace(steps=4, evaluations=1, validation=1, final=()), 0)
        assert len(shown.runs.tasks) == 1
        shown.tell(cell, result, True)
        assert shown.runs.tasks == []
        assert (shown.cells.tasks[0].completed, shown.cells.tasks[0].total) == (3, 9)
        shown.tell(*ended("rcla", 0, 0.3, role="trial"), True)
        for method, score in (("paca", 0.2), ("cola", 0.1)):
            shown.tell(*ended(method, 0, score), True)
        shown.tell(*ended("full", 0), True)
        title, table = shown.board.shown(most=4)
    assert title.plain == "t with m"
    assert [column.header for column in table.columns] == ["method", "test accuracy", "runs", "trials"]
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells[0] == ["lora", "cla", "paca", "cola", "and 1 more"]
    assert cells[1][:2] == ["0.6250", "0.2500"]
    assert cells[2][0] == "2"
    assert "full on t with m, seed 0: failed: out of memory" in file.getvalue()
    assert "cla on t with m, seed 0: test accuracy" not in file.getvalue()


def test_a_comparison_has_a_row_for_each_method_before_any_has_ended(ended):
    file = io.StringIO()
    with comparing(Console(file=file, force_terminal=True, width=100, height=20), "t with m", ("lora", "cla")) as shown:
        shown.start(2)
        before = file.getvalue()
        assert "t with m: 2 cells, 2 to be made" in before
        assert "lora" in before
        assert "cla" in before
        shown.tell(*ended("lora", 0, 0.75), True)
        after = file.getvalue()[len(before) :]
        assert "0.7500" in after
        assert "cla" in after
        assert "1/2" in after


def test_a_comparison_in_a_pipe_has_the_lines_of_its_runs_alone(ended):
    file = io.StringIO()
    with comparing(Console(file=file), "t with m", ("lora",)) as shown:
        shown.start(1)
        shown.tell(*ended("lora", 0, 0.75), True)
        assert len(shown.callbacks_of("lora", 0)) == 1
    assert file.getvalue() == ""
