"""First learning rates: for every method, from the seed alone, and the model left as it was."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lopsided import METHODS, LopsidedError
from lopsided.advise import first_rate, first_rates
from lopsided.advise.curvature_rate import FACTOR, StartCurvature, start_curvature
from lopsided.advise.first_rate import WAYS
from lopsided.advise.range_test import GROWTH, RangeCurve, range_curve
from lopsided.advise.trial_model import trial_model
from lopsided.baselines import BASELINES
from lopsided.curvature.hessian import hessian_product
from lopsided.models.mode_contexts import gradients_of, model_mode
from lopsided.runs import TrainConfig, load_inputs
from lopsided.runs.batches_of_rows import training_batches


@pytest.fixture(scope="module")
def config(bert, words):
    return TrainConfig(model=bert, task=words, rank=4, batch_size=8, max_length=16, out=Path("unused"))


@pytest.fixture(scope="module")
def inputs(config):
    return load_inputs(config)


FEW = ("full", "head", "lora_plus", "c3la", "bernoulli", "peft:pissa")
ALL = (*METHODS, *(f"peft:{name}" for name in BASELINES))
# Its product has no second derivative.
WITHOUT_CURVATURE = ("peft:shira",)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("names", [FEW, pytest.param(ALL, marks=pytest.mark.more)], ids=["few", "all"])
def test_every_method_has_a_first_rate_and_the_model_its_bits(config, inputs, names, how):
    model = inputs.model.train()
    model.classifier.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    for name in names:
        if how == "curvature" and name in WITHOUT_CURVATURE:
            with pytest.raises(LopsidedError, match="guess the rate by a range test"):
                first_rate(dataclasses.replace(config, method=name), inputs, how=how)
            continue
        rate = first_rate(dataclasses.replace(config, method=name), inputs, how=how)
        assert (rate.method, rate.how) == (name, how)
        assert 1e-7 < rate.value < 10
        assert rate.value == float(f"{rate.evidence.rate:.3g}")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == places
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["classifier.weight"]
    model.requires_grad_(True)


@pytest.mark.parametrize("how", WAYS)
def test_the_seed_decides(config, inputs, how):
    torch.manual_seed(5)
    first = first_rate(config, inputs, how=how)
    torch.manual_seed(6)
    assert first_rate(config, inputs, how=how) == first
    assert first_rate(dataclasses.replace(config, seed=1), inputs, how=how).evidence != first.evidence


def test_the_curvature_is_the_hessians_of_the_factors_in_the_optimizers_units(config, inputs):
    own = dataclasses.replace(config, method="lora_plus", rank=1, target_modules="query")
    found = start_curvature(own, inputs, batches=2, steps=60)
    batches = training_batches(own, inputs, 2)
    with trial_model(own, inputs) as trial:
        factors = trial.factors
        size = sum(p.numel() for p in factors)
        assert size == 2 * (32 + 32) == found.numbers
        # LoRA+'s B learns at 16 times the rate.
        rho = torch.cat([torch.full((p.numel(),), 16.0 if p.shape == (32, 1) else 1.0) for p in factors])
        with model_mode(trial.model, training=False), gradients_of(trial.model, factors):
            rows = [hessian_product(trial.model, factors, batches, row) for row in torch.eye(size)]
    H = rho[:, None] * torch.stack(rows) * rho
    top = float(torch.linalg.eigvalsh(H)[-1])
    assert found.top == pytest.approx(top, rel=0.05)
    assert found.rate == pytest.approx(FACTOR / math.sqrt(size * found.top))


def test_a_larger_scale_wants_a_rate_that_is_smaller_in_proportion(config, inputs):
    rates = [
        first_rate(dataclasses.replace(config, method="cla", alpha=alpha), inputs, how="curvature").value
        for alpha in (8.0, 32.0)
    ]
    assert rates[0] / rates[1] == pytest.approx(4, rel=0.05)


def test_the_head_counts_where_it_is_all_that_trains(config, inputs):
    head = start_curvature(dataclasses.replace(config, method="head"), inputs)
    assert head.numbers == 32 * 2 + 2
    cla = dataclasses.replace(config, method="cla")
    assert start_curvature(cla, inputs, head=True).numbers == start_curvature(cla, inputs).numbers + head.numbers


def test_a_loss_that_curves_down_everywhere_has_no_rate():
    flat = StartCurvature(top=-1.0, residual=0.0, slope=1.0, along=-1.0, numbers=4)
    with pytest.raises(LopsidedError, match="expected a positive top eigenvalue at the start, got -1"):
        _ = flat.rate


def curve(rises):
    return RangeCurve(rates=tuple(np.geomspace(1e-4, 1.0, len(rises))), rises=tuple(rises), start=1.0)


def test_growth_is_seen_beyond_the_lowest_loss():
    falls_then_grows = curve([*[0.0] * 10, *[-0.5] * 10, *[0.5] * 10])
    smooth = falls_then_grows.smoothed()
    at = falls_then_grows.rates.index(falls_then_grows.growth)
    lowest = int(np.argmin(smooth))
    assert at > lowest
    assert smooth[at] >= smooth[lowest] + GROWTH > smooth[at - 1]
    # Growth before the lowest loss is noise.
    assert curve([0.0, 0.3, 0.0, *[-0.5] * 20]).growth == pytest.approx(1.0)
    # A loss that is not finite has grown.
    broken = curve([0.0] * 9 + [math.nan])
    assert broken.growth < 1.0


def test_a_range_test_ends_where_the_loss_has_doubled(config):
    inputs = load_inputs(config)
    # Masks are drawn again for each pass, so that with dropout even equal weights differ in loss.
    for module in inputs.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    found = range_curve(dataclasses.replace(config, method="full"), inputs, steps=12, lowest=1e-5, highest=1e3)
    assert len(found.rates) == len(found.rises) < 12
    assert abs(found.rises[0]) < 1e-6
    assert max(found.rises) == found.rises[-1] > found.start or not math.isfinite(found.rises[-1])


def test_many_rates_and_bad_input(config, inputs):
    noted: list[str] = []
    rates = first_rates(config, ["cla", "head", "cla"], inputs=inputs, note=noted.append)
    assert [rate.method for rate in rates] == ["cla", "head"]
    assert noted == ["method 1 of 2: cla", "method 2 of 2: head"]
    with pytest.raises(LopsidedError, match="unknown way to guess a rate 'curve'"):
        first_rate(config, inputs, how="curve")
    with pytest.raises(LopsidedError, match="rank must not exceed"):
        first_rates(dataclasses.replace(config, rank=64), ["cla"], inputs=inputs)
