"""A study from its file to its tables, on a tiny model."""

from __future__ import annotations

import json

import pytest

from lopsided import LopsidedError
from lopsided.study.backend import Local
from lopsided.study.bench import Bench, planned, run_bench

TEXT = """
title = "tiny"
models = ["{model}"]
tasks = ["{task}"]
methods = ["head", "lora", "c3la"]
seeds = [0, 1]
[settings]
steps = 6
evaluations = 2
batch_size = 8
rank = {{ value = 2, source = "paper" }}
max_length = 16
"""


@pytest.fixture
def study(tmp_path, bert, words):
    path = tmp_path / "study.toml"
    path.write_text(TEXT.format(model=bert, task=words))
    return Bench(path=path, out=tmp_path / "out")


def outcomes(folder):
    """What decides of each line: the cell, how it ended, and its figures."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return {line["cell"]: (line["status"], line["record"]["metrics"], line["rows"]) for line in lines}


class Stopped(Local):
    """Ends the process's study after some cells."""

    def __init__(self, cache, cells):
        super().__init__(cache)
        self.cells = cells

    def next(self):
        if self.cells == 0:
            raise KeyboardInterrupt
        self.cells -= 1
        return super().next()


def test_a_study_is_planned_run_and_written(study):
    before = planned(study, probe=False)
    assert before.counts() == {"pending": 6}
    assert not study.out.exists()
    after = run_bench(study)
    assert after.counts() == {"finished": 6}
    assert len(outcomes(study.out)) == 6
    assert {cell.cell.key for cell in before.cells} == set(outcomes(study.out))
    table = (study.out / "leaderboards.csv").read_text()
    assert "c3la" in table
    assert "| lora |" in (study.out / "leaderboards.md").read_text()
    assert len(list((study.out / "method_comparison").iterdir())) == 6


def test_a_finished_cell_is_never_run_again(study, tmp_path):
    run_bench(study)
    first = outcomes(study.out)

    class Never(Local):
        def next(self):
            raise AssertionError("a cell was run again")

    assert run_bench(study, backend=lambda plan, cache: Never(cache)).counts() == {"finished": 6}
    # Nor on another machine that has the lines alone.
    elsewhere = Bench(path=study.path, out=tmp_path / "elsewhere", results=(study.out / "results.jsonl",))
    assert run_bench(elsewhere, backend=lambda plan, cache: Never(cache)).counts() == {"finished": 6}
    assert (elsewhere.out / "leaderboards.csv").read_text() == (study.out / "leaderboards.csv").read_text()
    assert outcomes(study.out) == first


def test_a_study_that_was_cut_off_goes_on(study, tmp_path):
    undisturbed = Bench(path=study.path, out=tmp_path / "undisturbed")
    run_bench(undisturbed)
    for cells in (0, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            run_bench(study, backend=lambda plan, cache, cells=cells: Stopped(cache, cells))
    with open(study.out / "results.jsonl", "a") as file:
        file.write('{"schema": 1, "cell')
    assert run_bench(study).counts() == {"finished": 6}
    assert outcomes(study.out) == outcomes(undisturbed.out)
    assert len((study.out / "results.jsonl").read_text().splitlines()) == 6


def test_shards_make_all_cells_once(study):
    for i in (1, 2, 3):
        run_bench(Bench(path=study.path, out=study.out, shard=(i, 3)))
    assert run_bench(study, backend=lambda plan, cache: Stopped(cache, 0)).counts() == {"finished": 6}


def test_a_changed_file_is_refused(study):
    run_bench(study)
    study.path.write_text(study.path.read_text().replace("steps = 6", "steps = 5"))
    with pytest.raises(LopsidedError, match=r"has changed since .* was begun with it; .* pass --changed"):
        run_bench(study)
    assert len(outcomes(study.out)) == 6


def test_rates_are_tuned_by_the_same_trials(study):
    study.path.write_text(study.path.read_text().replace("seeds = [0, 1]", "seeds = [0]") + "[tuning]\ntrials = 3\n")
    assert planned(study, probe=False).counts() == {"pending": 12}
    after = run_bench(study)
    assert after.counts() == {"finished": 12}
    trials = [cell for cell in after.cells if cell.cell.role == "trial"]
    assert len(trials) == 9
    assert len({cell.cell.config.learning_rate for cell in trials if cell.cell.config.method == "lora"}) == 3
    assert "## Rates that were tried" in (study.out / "leaderboards.md").read_text()
