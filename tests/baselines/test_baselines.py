"""Every method of stock PEFT trains, is saved, resumed and loaded as exactly as our own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lopsided.baselines import BASELINES
from lopsided.runs import train
from lopsided.runs.measure import model_mode
from lopsided.runs.reload import data_of, reload, reload_merged
from lopsided.runs.run import finished_run
from tests.runs.test_resume import assert_same_run, cut_off
from tests.tiny_runs import tiny_config

SETTINGS = {"rank": 4, "steps": 6, "evaluations": 3, "lr": 2e-2}


@pytest.fixture(scope="module", autouse=True)
def _quick(one_thread):
    """Matrices of 32 columns."""


@pytest.fixture(scope="module")
def trained(bert, words, tmp_path_factory):
    """A finished run of each baseline."""
    folder = tmp_path_factory.mktemp("baselines")
    made = {}

    def run(name: str):
        if name not in made:
            made[name] = folder / name
            train(tiny_config(made[name], model=bert, task=words, method=f"peft:{name}", **SETTINGS))
        return made[name]

    return run


def losses(model, run) -> np.ndarray:
    """Each test row's loss, in the order of the run's."""
    from lopsided.runs.evaluated_rows import sample_rows

    data = data_of(run)
    rows = sample_rows(data.encoded.splits["test"], None)
    batch = data.collator()([rows[i] for i in range(len(rows))])
    with torch.no_grad(), model_mode(model, training=False):
        logits = model(**batch).logits
    return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none").numpy()


@pytest.mark.parametrize("name", BASELINES)
def test_a_saved_baseline_reloads_to_the_same_predictions(name, trained):
    run = finished_run(trained(name))
    expected = run.predictions["test"]["loss"]
    assert np.ptp(expected) > 0
    for model in (reload(run.folder), reload(run.folder, trainable=True), reload_merged(run.folder)):
        np.testing.assert_allclose(losses(model, run), expected, atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_goes_on_as_if_nothing_had_happened(name, trained, bert, words, tmp_path):
    config = tiny_config(tmp_path / "cut", model=bert, task=words, method=f"peft:{name}", **SETTINGS)
    cut_off(config, step=5)
    train(config, resume=True)
    assert_same_run(config.out, trained(name))
