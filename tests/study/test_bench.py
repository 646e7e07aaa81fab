"""A study from its file to its tables, on a tiny model."""

from __future__ import annotations

import json

import pytest

from lopsided import METHODS, LopsidedError
from lopsided.study.backend import Local
from lopsided.study.bench import Bench, planned, run_bench

TEXT = """
title = "tiny"
models = ["{model}"]
tasks = ["{task}"]
methods = ["head", "c3la"]
seeds = [0, 1]
[settings]
steps = 4
links = 2
evaluations = 1
batch_size = 8
rank = {{ value = 2, source = "paper" }}
max_length = 16
"""


@pytest.fixture(autouse=True)
def known_methods():
    """A study makes its variants known for the rest of the process, which has other tests to come."""
    before = dict(METHODS)
    yield
    for name in METHODS.keys() - before.keys():
        del METHODS[name]


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
    assert before.counts() == {"pending": 4}
    assert not study.out.exists()
    after = run_bench(study)
    assert after.counts() == {"finished": 4}
    assert len(outcomes(study.out)) == 4
    assert {cell.cell.key for cell in before.cells} == set(outcomes(study.out))
    table = (study.out / "leaderboards.csv").read_text()
    assert "c3la" in table
    assert "| c3la |" in (study.out / "leaderboards.md").read_text()
    assert "not tuned; with tuned rates the order may be" in (study.out / "leaderboards.md").read_text()
    assert len(list((study.out / "method_comparison").iterdir())) == 4


def test_costs_are_measured_apart_and_once(study):
    text = study.path.read_text().replace("seeds = [0, 1]", "seeds = [0]")
    study.path.write_text(text + "[costs]\nrounds = 2\n")
    run_bench(study)
    lines = (study.out / "costs.jsonl").read_text()
    assert [line["method"] for line in json.loads(lines)["table"]["methods"]] == ["head", "c3la"]
    assert "| c3la | " in (study.out / "leaderboards.md").read_text().split("## What a step costs")[1]
    run_bench(study)
    assert (study.out / "costs.jsonl").read_text() == lines


def test_a_finished_cell_is_never_run_again(study, tmp_path):
    run_bench(study)
    first = outcomes(study.out)

    class Never(Local):
        def next(self):
            raise AssertionError("a cell was run again")

    assert run_bench(study, backend=lambda plan, cache: Never(cache)).counts() == {"finished": 4}
    # Nor on another machine that has the lines alone.
    elsewhere = Bench(path=study.path, out=tmp_path / "elsewhere", results=(study.out / "results.jsonl",))
    assert run_bench(elsewhere, backend=lambda plan, cache: Never(cache)).counts() == {"finished": 4}
    assert (elsewhere.out / "leaderboards.csv").read_text() == (study.out / "leaderboards.csv").read_text()
    assert outcomes(study.out) == first


@pytest.mark.more
def test_a_study_that_was_cut_off_goes_on(study, tmp_path):
    undisturbed = Bench(path=study.path, out=tmp_path / "undisturbed")
    run_bench(undisturbed)
    for cells in (0, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            run_bench(study, backend=lambda plan, cache, cells=cells: Stopped(cache, cells))
    with open(study.out / "results.jsonl", "a") as file:
        file.write('{"schema": 1, "cell')
    assert run_bench(study).counts() == {"finished": 4}
    assert outcomes(study.out) == outcomes(undisturbed.out)
    assert len((study.out / "results.jsonl").read_text().splitlines()) == 4


@pytest.mark.more
def test_shards_make_all_cells_once(study):
    for i in (1, 2, 3):
        run_bench(Bench(path=study.path, out=study.out, shard=(i, 3)))
    assert run_bench(study, backend=lambda plan, cache: Stopped(cache, 0)).counts() == {"finished": 4}


def test_a_changed_file_is_refused(study):
    study.path.write_text(study.path.read_text().replace("seeds = [0, 1]", "seeds = [0]"))
    run_bench(study)
    study.path.write_text(study.path.read_text().replace("steps = 4", "steps = 3"))
    with pytest.raises(LopsidedError, match=r"has changed since .* was begun with it; .* pass --changed"):
        run_bench(study)
    assert len(outcomes(study.out)) == 2


@pytest.mark.more
def test_rates_are_tuned_by_the_same_trials(study):
    study.path.write_text(study.path.read_text().replace("seeds = [0, 1]", "seeds = [0]") + "[tuning]\ntrials = 3\n")
    assert planned(study, probe=False).counts() == {"pending": 8}
    after = run_bench(study)
    assert after.counts() == {"finished": 8}
    trials = [cell for cell in after.cells if cell.cell.role == "trial"]
    assert len(trials) == 6
    assert len({cell.cell.config.learning_rate for cell in trials if cell.cell.config.method == "c3la"}) == 3
    table = (study.out / "leaderboards.md").read_text()
    assert "the best of 3 that were tried" in table
    assert table.partition("## Rates that were tried")[2].count("(chosen)") == 2
    assert len(list((study.out / "trials").iterdir())) == 6
    assert len(list((study.out / "runs").iterdir())) == 2


@pytest.mark.more
def test_variants_profiles_and_sweeps_are_data(study):
    text = study.path.read_text().replace('methods = ["head", "c3la"]', 'methods = ["kept", "c3la"]')
    text = text.replace("seeds = [0, 1]", 'seeds = [0]\nprofile = "released_two"')
    text += '[sweep]\nalpha = [2.0, { value = 4.0, source = "code" }]\n'
    text += '[variants.kept]\nof = "c3la"\nchain = { merge = false }\n'
    study.path.write_text(text)
    plan = run_bench(study)
    assert plan.counts() == {"finished": 4}
    methods = {cell.cell.config.method for cell in plan.cells}
    assert methods == {"kept", "released_two:c3la"}
    assert {cell.settings["alpha"].source for cell in plan.cells} == {"default", "code"}
    assert "| kept, alpha 4.0 |" in (study.out / "leaderboards.md").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 4", "stepz = 4", r"study.toml: settings.stepz: unknown setting 'stepz'.*did you mean 'steps'"),
        ("steps = 4", 'steps = "4"', r"settings.steps: expected int, received str '4'"),
        ('"paper"', '"papr"', r"settings.rank: unknown source 'papr'.*did you mean 'paper'"),
        ('"c3la"', '"c4la"', r"unknown method 'c4la'.*did you mean"),
        ("seeds = [0, 1]", "seeds = [0, 0]", r"seeds must be distinct"),
        ("[settings]", "[setings]", r"study.toml: unknown key 'setings'.*did you mean 'settings'"),
        ("rank = { value = 2,", "rank = { value = 64,", r"rank must not exceed the layer's width: r=64"),
        ("max_length = 16", "max_length = 16\n[tuning]\ntrials = 1", r"tuning: trials must be at least 2, got 1"),
        (
            "max_length = 16",
            "max_length = 16\n[tuning]\ntrials = 2\n[sweep]\nlr = [1e-3, 1e-2]",
            r"study.toml: \[tuning\] chooses a learning rate for each method, and sweep.lr tries given ones",
        ),
        (
            "max_length = 16",
            "max_length = 16\n[variants.x]\nchain = {}",
            r"variants.x: expected a table with of = METHOD",
        ),
    ],
)
def test_bad_studies_are_refused_in_a_line(study, old, new, message):
    text = study.path.read_text()
    assert old in text
    study.path.write_text(text.replace(old, new))
    with pytest.raises(LopsidedError, match=message):
        run_bench(study)
    assert not study.out.exists()


def test_a_causal_task_on_an_encoder_is_refused(study, phrases, words):
    study.path.write_text(study.path.read_text().replace(words, phrases))
    with pytest.raises(LopsidedError, match="expected a causal or an encoder-decoder model"):
        run_bench(study)


def test_failed_cells_are_kept_and_made_again(study, monkeypatch):
    monkeypatch.setattr("lopsided.study.run_cell.train", lambda *args, **kwargs: 1 / 0)
    assert run_bench(study).counts() == {"failed": 4}
    monkeypatch.undo()
    assert run_bench(study).counts() == {"failed": 4}
    again = Bench(path=study.path, out=study.out, retry_failed=True)
    assert run_bench(again).counts() == {"finished": 4}


def test_two_processes_do_not_share_a_folder(study):
    from lopsided.runs.directory import in_use

    with in_use(study.out), pytest.raises(LopsidedError, match="is in use by another run"):
        run_bench(study)
