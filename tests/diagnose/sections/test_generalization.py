"""G(W), gaps and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from lopsided import LopsidedError
from lopsided.diagnose.sections.generalization import folded, generalization


def losses(**means: float) -> dict[str, dict[str, np.ndarray]]:
    draw = np.random.RandomState(0)
    return {split: {"loss": mean + draw.standard_normal(400)} for split, mean in means.items()}


def test_figures_are_differences_of_means():
    rows = losses(train=1.0, validation=1.1, test=1.5, amazon=0.2)
    found = generalization(rows)
    mean = {split: columns["loss"].mean() for split, columns in rows.items()}
    assert found["splits"]["train"]["loss"] == pytest.approx(mean["train"])
    assert found["splits"]["train"]["rows"] == 400
    assert set(found["gaps"]) == {"validation", "test", "amazon"}
    assert found["gaps"]["amazon"]["value"] == pytest.approx(mean["amazon"] - mean["train"])
    assert found["gaps"]["amazon"]["high"] < 0
    assert found["G"]["value"] == pytest.approx(abs(mean["test"] - mean["train"]))
    assert 0 < found["G"]["low"] < found["G"]["value"] < found["G"]["high"]


def test_without_a_test_split_there_is_no_G():
    assert generalization(losses(train=1.0, validation=1.0))["G"] is None


def test_the_interval_covers_the_true_gap_as_often_as_it_says():
    draw, covered = np.random.RandomState(1), 0
    for trial in range(200):
        rows = {"train": {"loss": draw.exponential(1.0, 150)}, "test": {"loss": draw.exponential(1.4, 150)}}
        gap = generalization(rows, draws=300, seed=trial)["gaps"]["test"]
        covered += gap["low"] <= 0.4 <= gap["high"]
    assert 0.89 <= covered / 200 <= 0.985


def test_an_interval_around_zero_folds_onto_it():
    assert folded({"value": -0.1, "low": -0.4, "high": 0.2}) == {"value": 0.1, "low": 0.0, "high": 0.4}
    assert folded({"value": -0.3, "low": -0.4, "high": -0.2}) == {"value": 0.3, "low": 0.2, "high": 0.4}


def test_bad_input_is_one_line():
    with pytest.raises(LopsidedError, match="losses of a training split"):
        generalization(losses(test=1.0))
    rows = losses(train=1.0, test=1.0)
    rows["test"]["loss"][3] = np.nan
    with pytest.raises(LopsidedError, match="1 of 400 in 'test'"):
        generalization(rows)
