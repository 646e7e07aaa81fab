"""What the trials and guesses of rates come to, from made scores; and one place from end to end."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from benchmarks import rate_guess as script
from lopsided import METHODS, LopsidedError
from lopsided.advise.first_rate import DEFAULT_WAY, WAYS
from lopsided.lab import verdict
from lopsided.lab.experiments.rate_guess import EXPERIMENT, PlaceScores, outcome, scores_of
from lopsided.lab.rate_trials import Guess, Lines, Trial, TrialSetting, measure_place

SETTING = TrialSetting(methods=("head", "lora", "cla", "rac_b"), tasks=("movie", "trec"), seeds=2)


def made(guess_of, worst=60.0):
    """Trials whose score falls by 10 points per decade from the tuned rate, and guesses of it."""
    lines = []
    for task, method, seed in itertools.product(SETTING.tasks, SETTING.methods, range(SETTING.seeds)):
        tuned = METHODS[method].lr
        guesses = {how: guess_of(tuned) for how in WAYS}
        lines += [
            Guess(task=task, method=method, seed=seed, how=how, rate=rate, evidence={}) for how, rate in guesses.items()
        ]
        for rate in {*SETTING.rates, tuned, *guesses.values()}:
            score = max(worst, 90 - 10 * abs(float(np.log10(rate / tuned))))
            lines.append(Trial(task=task, method=method, seed=seed, rate=rate, score=score))
    return Lines.of(lines)


def test_a_right_guess_is_reproduced_and_a_wrong_one_is_not():
    right = outcome(SETTING, made(lambda tuned: tuned))
    assert [figure.value for figure in right.measured] == pytest.approx([1, 1, 0, 1, 0])
    # Eight places are too few for a share of at least 0.8.
    assert verdict(EXPERIMENT, right) == "undecided"
    wrong = outcome(SETTING, made(lambda tuned: 1e-7 / tuned))
    assert wrong.measured[0].value == pytest.approx(-1)
    assert wrong.measured[2].value > 3
    assert verdict(EXPERIMENT, wrong) == "not reproduced"
    assert right.settings["way"] == DEFAULT_WAY


def test_a_tuned_score_is_that_of_a_rate_that_other_seeds_chose():
    scores = PlaceScores(
        by_rate={1e-3: np.array([80.0, 70.0]), 1e-2: np.array([70.0, 81.0])},
        guessed={"range": np.array([75.0, 75.0])},
        default=np.array([0.0, 0.0]),
        guesses={"range": np.array([1e-3, 1e-1])},
    )
    assert scores.tuned == 1e-2
    # Each seed's own best would be 80 and 81.
    assert scores.tuned_scores.tolist() == [70.0, 70.0]
    assert scores.lost("range") == -5.0
    assert scores.guess("range") == pytest.approx(1e-2)
    one = dataclasses.replace(scores, by_rate={r: v[:1] for r, v in scores.by_rate.items()}, default=np.array([0.0]))
    assert one.tuned_scores.tolist() == [80.0]


def test_a_loss_that_is_not_finite_scores_nothing_and_a_missing_trial_is_named():
    lines = made(lambda tuned: tuned)
    broken = dataclasses.replace(lines.trials[0], score=None)
    found = scores_of(SETTING, dataclasses.replace(lines, trials=(broken, *lines.trials[1:])))
    place = found[broken.method, broken.task]
    tried = {**place.by_rate, METHODS[broken.method].lr: place.default}
    assert tried[broken.rate][broken.seed] == 0.0
    with pytest.raises(LopsidedError, match=r"no measurement of .*'head'.*measure the rest first"):
        scores_of(SETTING, dataclasses.replace(lines, trials=lines.trials[len(SETTING.rates) + 2 :]))


@pytest.mark.more
def test_a_place_from_end_to_end_and_what_is_known_is_not_measured_again(bert, words, tmp_path, monkeypatch):
    monkeypatch.setattr("lopsided.lab.rate_trials.BUILT_IN", {"movie": words})
    monkeypatch.setitem(__import__("lopsided.lab.rate_trials", fromlist=["SHORT"]).SHORT, "model", bert)
    setting = TrialSetting(tasks=("movie",), rates=(1e-2,), seeds=1, steps=2, batch=8, max_length=16, validation=8)
    path = tmp_path / "lines.jsonl"
    first = list(measure_place(setting, "movie", "cla", 0, tmp_path / "runs", Lines()))
    for line in first:
        script.write_line(path, line)
    assert [type(line) for line in first] == [Guess, Guess, *[Trial] * 4]
    assert {t.rate for t in first[2:]} == {1e-2, METHODS["cla"].lr, *(g.rate for g in first[:2])}
    assert all(0 <= trial.score <= 100 for trial in first[2:])
    with path.open("a") as file:
        file.write('{"kind": "trial", "task"')
    known = Lines.of(script.read_lines(path))
    assert [json.dumps(dataclasses.asdict(line)) for line in (*known.guesses, *known.trials)] == [
        json.dumps(dataclasses.asdict(line)) for line in first
    ]
    assert not list(measure_place(setting, "movie", "cla", 0, tmp_path / "runs", known))
    assert not list((tmp_path / "runs").glob("*"))
    with pytest.raises(LopsidedError, match="expected a folder of data that holds it"):
        list(measure_place(setting, "trec", "cla", 0, tmp_path, Lines()))
