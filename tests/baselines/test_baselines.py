"""Every method of stock PEFT trains, is saved, resumed and loaded as exactly as our own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import TrainerCallback

from lopsided import param_groups
from lopsided.baselines import BASELINES
from lopsided.baselines.rank_budget import ranks
from lopsided.runs import load_inputs, train
from lopsided.runs.evaluated_rows import sample_rows
from lopsided.runs.measure import model_mode
from lopsided.runs.prepare import prepare
from lopsided.runs.reload import data_of, reload, reload_merged
from lopsided.runs.run import finished_run
from lopsided.tuner import trained_numbers
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


class Ranks(TrainerCallback):
    """Notes AdaLoRA's ranks after each step."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(sum(ranks(kwargs["model"]).values()))


def test_adalora_cuts_its_ranks_over_the_run_that_it_is_in(bert, words, tmp_path):
    seen, layers = Ranks(), 4
    config = tiny_config(
        tmp_path / "run",
        **{**SETTINGS, "steps": 12, "evaluations": 1},
        model=bert,
        task=words,
        method="peft:adalora",
        target_modules="query,value",
        warmup=0.0,
    )
    train(config, callbacks=[seen])
    # 1.5 r at the start; the first tenth of the run keeps all, the last third what is asked for.
    assert seen.seen[0] == layers * 6
    assert all(before >= after for before, after in pairwise(seen.seen))
    assert seen.seen[8:] == [layers * 4] * 4
    assert len(set(seen.seen)) > 3
    saved = reload(config.out)
    assert sum(ranks(saved).values()) == layers * 4
    # The file holds no rows that are zero.
    assert sum(len(p) for n, p in saved.named_parameters() if ".lora_E." in n) == layers * 4


def test_adaloras_penalty_is_in_no_evaluation(bert, words, tmp_path):
    config = tiny_config(
        tmp_path / "run", model=bert, task=words, method="peft:adalora", **SETTINGS | {"steps": 4, "evaluations": 1}
    )
    run = train(config)
    [(_, evaluated)] = run.losses("validation")
    assert evaluated == pytest.approx(run.metrics["validation"].loss.value, abs=1e-5)


def prepared(bert, words, tmp_path, method: str, seed: int = 0):
    """A model that is ready for its first step, and a batch."""
    config = tiny_config(tmp_path / "unused", model=bert, task=words, method=method, seed=seed)
    inputs = load_inputs(config)
    model = prepare(inputs.model, config.resolve_method(), inputs.data.task, config, steps=6)
    rows = inputs.data.encoded.splits["train"]
    return model.eval(), inputs.data.collator()([rows[i] for i in range(8)])


@pytest.mark.parametrize("name", BASELINES)
def test_random_factors_follow_the_seed_whatever_was_drawn_before(name, bert, words, tmp_path):
    def tensors(seed: int) -> dict[str, torch.Tensor]:
        model, _ = prepared(bert, words, tmp_path, f"peft:{name}", seed)
        file = get_peft_model_state_dict(model)
        return {key: tensor for key, tensor in file.items() if "classifier" not in key and "pooler" not in key}

    first = tensors(1)
    torch.rand(3)
    again, other = tensors(1), tensors(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    # PiSSA decomposes W0; MiSS, IA3 and OFT start at a constant.
    differs = any(not torch.equal(first[key], other[key]) for key in first)
    assert differs == (name not in ("pissa", "miss", "ia3", "oft"))


def test_lora_of_peft_is_our_lora(bert, words, tmp_path):
    theirs, batch = prepared(bert, words, tmp_path, "peft:lora")
    ours, _ = prepared(bert, words, tmp_path, "lora")
    assert trained_numbers(theirs) == trained_numbers(ours)
    # From the same A: each library draws its own.
    starts = dict(ours.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if ".lora_A." in name:
                parameter.copy_(starts[name.replace(".lora_A.", ".lopsided_A.")])
    curves = []
    for model in (theirs, ours):
        optimizer = torch.optim.AdamW(param_groups(model, lr=1e-2))
        curve = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    assert curves[0][0] > curves[0][-1]
    np.testing.assert_allclose(*curves, rtol=1e-5)


def test_the_default_layers_are_those_of_our_methods_unless_the_method_has_its_own(bert, words, tmp_path):
    def adapted(method: str) -> set[str]:
        config = tiny_config(tmp_path / "unused", model=bert, task=words, method=method, target_modules=None)
        inputs = load_inputs(config)
        model = prepare(inputs.model, config.resolve_method(), inputs.data.task, config, steps=6)
        return {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}

    assert adapted("peft:dora") == adapted("lora")
    assert {name.rpartition(".")[2] for name in adapted("peft:ia3")} == {"key", "value", "dense"}
