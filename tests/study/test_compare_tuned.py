"""A comparison whose learning rates are chosen by trials, on a tiny model."""

from __future__ import annotations

import json

import pytest
from transformers import TrainerCallback

from lopsided import LopsidedError
from lopsided.report.gather import gather
from lopsided.runs import finished_run
from lopsided.study import CompareConfig, compare
from lopsided.study.backend import Local
from lopsided.study.bench import Bench, run_bench
from lopsided.study.tried_rates import rates_note
from tests.tiny_runs import tiny_config

METHODS = ("head", "lora", "peft:dora")


def tuned(out, bert, words, *, methods=METHODS, tune: int | None = 3, **options):
    settings = {"model": bert, "task": words, "method": "lora", "steps": 4, "evaluations": 1, "lr": None, **options}
    return CompareConfig(run=tiny_config(out, **settings), methods=methods, seeds=(0, 1), tune=tune)


class Counted(TrainerCallback):
    def __init__(self, trained, *key):
        self.trained, self.key = trained, key

    def on_train_begin(self, args, state, control, **kwargs):
        self.trained.append(self.key)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, bert, words):
    """A tuned comparison, what it came to, and what was trained."""
    config, trained = tuned(tmp_path_factory.mktemp("tuned") / "out", bert, words), []
    return config, compare(config, callbacks=lambda name, seed: [Counted(trained, name, seed)]), trained


def test_each_rate_is_chosen_by_as_many_trials(outcome):
    config, comparison, trained = outcome
    tuning = comparison.to_json()["tuning"]
    assert json.loads((config.run.out / "results.json").read_text())["tuning"] == tuning
    assert (tuning["trials"], tuning["spread"], tuning["split"]) == (3, 10.0, "validation")
    assert [each["method"] for each in tuning["methods"]] == list(METHODS)
    for each in tuning["methods"]:
        own = config.config_of(each["method"], 0).learning_rate
        assert [trial["rate"] for trial in each["tried"]] == pytest.approx([own / 10, own, own * 10], rel=1e-2)
        best = max(each["tried"], key=lambda trial: (trial["score"], -trial["loss"]))
        assert each["chosen"] == best["rate"]
        runs = [finished_run(config.folder(each["method"], seed)) for seed in (0, 1)]
        assert [run.learning_rate for run in runs] == [best["rate"]] * 2
    assert [key for key in trained if ", rate " in key[0]] == trained[:9]
    assert {seed for name, seed in trained[:9]} == {0}
    assert len(trained) == 9 + 6
    assert comparison.notes == (rates_note(3),)


def test_trials_are_no_runs(outcome):
    config, _, _ = outcome
    assert len(list((config.run.out / "trials").iterdir())) == 9
    gathered = gather([config.run.out], bounds=False)
    assert len(gathered.runs) == 6
    trial = gather([config.run.out / "trials" / "lora-lr0.001"], bounds=False)
    assert len(trial.runs) == 1


def test_a_tuned_comparison_is_gone_on_with(outcome):
    config, comparison, _ = outcome
    trained = []
    again = compare(config, resume=True, callbacks=lambda name, seed: [Counted(trained, name, seed)])
    assert trained == []
    assert again.to_json()["tuning"] == comparison.to_json()["tuning"]
    assert [row.learning_rate for row in again.leaderboard.rows] == [
        row.learning_rate for row in comparison.leaderboard.rows
    ]


def test_a_study_takes_the_results_of_a_comparison(outcome, tmp_path, bert, words):
    config, _, _ = outcome
    path = tmp_path / "study.toml"
    path.write_text(
        f'models = ["{bert}"]\ntasks = ["{words}"]\nmethods = {json.dumps(METHODS)}\nseeds = [0, 1]\n'
        "[settings]\nsteps = 4\nevaluations = 1\nbatch_size = 16\nrank = 4\nmax_length = 16\n[tuning]\ntrials = 3\n"
    )

    class Never(Local):
        def next(self):
            raise AssertionError("a cell was run again")

    study = Bench(path=path, out=tmp_path / "out", results=(config.run.out / "results.jsonl",))
    assert run_bench(study, backend=lambda plan, cache: Never(cache)).counts() == {"finished": 15}


@pytest.mark.more
def test_a_method_without_a_trial_is_a_row_and_the_others_finish(tmp_path, monkeypatch, bert, words):
    from lopsided.study import run_cell

    train = run_cell.train

    def fail(config, **options):
        if config.method == "lora":
            raise RuntimeError("out of memory")
        return train(config, **options)

    monkeypatch.setattr(run_cell, "train", fail)
    results = compare(tuned(tmp_path / "out", bert, words, methods=("head", "lora"), tune=2)).to_json()
    assert [row["status"] for row in results["rows"]] == ["ok", "failed"]
    assert results["rows"][1]["error"] == "none of the 2 trials of its learning rate has a score"
    [_, lora] = results["tuning"]["methods"]
    assert (lora["chosen"], [trial["why"] for trial in lora["tried"]]) == (None, ["out of memory"] * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": 1}, "tune must be at least 2, got 1"),
        ({"lr": 1e-3}, r"tune chooses a learning rate for each method, and lr=0.001 is one for all; leave one"),
    ],
)
def test_what_can_not_be_tuned(tmp_path, bert, words, options, message):
    with pytest.raises(LopsidedError, match=message):
        tuned(tmp_path / "out", bert, words, **options)


def test_without_optuna_nothing_begins(tmp_path, monkeypatch, bert, words):
    monkeypatch.setattr("lopsided.study.tuning.importlib.util.find_spec", lambda name: None)
    with pytest.raises(LopsidedError, match=r"Optuna, which is not installed; pip install 'lopsided\[tune\]'"):
        compare(tuned(tmp_path / "out", bert, words))
    assert not (tmp_path / "out").exists()


def test_an_untuned_table_says_so(tmp_path, bert, words):
    untuned = rates_note(None)
    assert untuned.startswith("Learning rates: each method's own, not tuned; with tuned rates the order may be")
    shared = rates_note(None, shared=1e-3)
    assert shared.startswith("Learning rates: 0.001 for every method, not tuned;")
    comparison = compare(tuned(tmp_path / "out", bert, words, methods=("head",), tune=None, lr=1e-3))
    assert comparison.notes == (shared,)
    assert comparison.to_json()["tuning"] is None
