"""A chain's switches in a Trainer: which rate a step takes, what the log says, and what a resume brings back."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import TrainerCallback

import lopsided
from lopsided import METHODS, Chain, ChainCallback, LopsidedError
from lopsided.optim import reset_state
from lopsided.tuner import layers_of
from tests import tiny
from tests.optim.test_advance import trainer


class Rates(TrainerCallback):
    """What each step's optimizer used."""

    def __init__(self):
        self.used = []

    def on_optimizer_step(self, args, state, control, **kwargs):
        # ChainCallback, which comes first, has put the schedule's rate back: the frozen one is next to it.
        group = kwargs["optimizer"].param_groups[0]
        self.used.append(group.get("lopsided_frozen_lr", group["lr"]))


def adapted(method="c3la", **switches):
    chain = Chain(links=4, freeze_rate=True, **switches)
    method = dataclasses.replace(METHODS[method], name="switched", chain=chain)
    return lopsided.adapt(tiny.bert(), method, r=2, target_modules="all-linear", seed=0)


def schedule(step: int, steps: int = 12) -> float:
    """The linear schedule's rate of a step, from 0."""
    return 1e-2 * (steps - step) / steps


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one, other):
    for (name, left), right in zip(one.items(), other.values(), strict=True):
        assert torch.equal(left, right), name


def test_the_rate_stays_from_the_first_advance_on(tmp_path):
    rates = Rates()
    run = trainer(adapted(), tmp_path, callbacks=[ChainCallback(), rates], lr_scheduler_type="linear")
    run.train()
    expected = [schedule(min(step, 3)) for step in range(12)]
    assert rates.used == pytest.approx(expected, abs=1e-12)
    # The log shows what was used, not what the schedule would have had.
    assert [e["learning_rate"] for e in run.state.log_history if "learning_rate" in e] == pytest.approx(expected)


@pytest.mark.parametrize("scheduler", ["linear", "cosine_with_min_lr", "reduce_lr_on_plateau"])
def test_the_rate_stays_under_any_schedule(scheduler, tmp_path):
    rates, options = Rates(), {"eval_strategy": "steps", "eval_steps": 1}
    if scheduler == "cosine_with_min_lr":
        options["lr_scheduler_kwargs"] = {"min_lr": 1e-4}
    run = trainer(adapted(), tmp_path, callbacks=[ChainCallback(), rates], lr_scheduler_type=scheduler, **options)
    run.train()
    assert len(set(rates.used[3:])) == 1


def test_a_frozen_rate_warms_up_again_and_comes_back(tmp_path):
    seen = []

    class Scaled(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            group = kwargs["optimizer"].param_groups[0]
            seen.append(group.get("lopsided_frozen_lr", group["lr"]))

    run = trainer(adapted(rewarm=2), tmp_path, callbacks=[ChainCallback(), Scaled()], lr_scheduler_type="linear")
    run.train()
    frozen = schedule(3)
    assert seen == pytest.approx([schedule(s) for s in range(3)] + [frozen / 2, frozen, frozen] * 3, abs=1e-12)


NEITHER = {"merge": False, "redraw": False, "prune": 0.0}


# Before the first advance, and after it.
@pytest.mark.parametrize(
    ("switches", "stop"),
    [({}, 2), ({}, 5), ({"merge": False}, 8), (NEITHER, 5)],
    ids=["2", "5", "not merged", "neither"],
)
def test_a_resumed_run_is_the_undisturbed_one(switches, stop, tmp_path):
    whole = adapted(**switches)
    trainer(whole, tmp_path / "whole", callbacks=[ChainCallback()], save_strategy="steps", save_steps=1).train()
    resumed = adapted(**switches)
    run = trainer(resumed, tmp_path / "resumed", callbacks=[ChainCallback()])
    run.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert_same(tensors(whole), tensors(resumed))
    # To the last bit, as the optimizer's state has it.
    assert run.optimizer.param_groups[0]["lopsided_frozen_lr"] == schedule(3)
    assert next(iter(layers_of(resumed).values())).adapters["default"].link == 3


def test_a_resume_without_the_optimizers_state_is_refused(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 5, "save_only_model": True}
    trainer(adapted(), tmp_path, callbacks=[ChainCallback()], **options).train()
    with pytest.raises(LopsidedError, match=r"froze its learning rate at link 1.*save_only_model"):
        trainer(adapted(), tmp_path / "again", callbacks=[ChainCallback()]).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-5")
        )


def test_a_chain_that_does_nothing_to_the_factors_is_its_unchained_twin(tmp_path):
    """With the state kept and the schedule going on, nothing of a link is left."""
    chain = Chain(links=4, merge=False, redraw=False, prune=0.0)
    models = []
    for switched in (None, chain):
        method = dataclasses.replace(METHODS["lora"], name="switched", chain=switched)
        model = lopsided.adapt(tiny.bert(), method, r=2, target_modules="all-linear", seed=0)
        trainer(model, tmp_path, callbacks=[ChainCallback()]).train()
        models.append([p.detach() for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(left, right) for left, right in zip(*models, strict=True))


def test_a_gradient_outlives_an_advance_that_changes_no_factor():
    for switches, outlives in (({"merge": False, "redraw": False}, True), ({}, False)):
        model = adapted(**switches)
        model(**tiny.inputs(model)).logits.sum().backward()
        factor = next(iter(layers_of(model).values())).trained("default")["B"]
        assert factor.grad.any()
        lopsided.advance_chain(model, torch.optim.AdamW(model.parameters()))
        assert bool(factor.grad.any()) == outlives


def test_a_state_that_is_kept_may_be_any_optimizers():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.LBFGS([parameter])
    reset_state(optimizer, [parameter], prune=0.0)


def test_averages_go_on_over_an_advance_that_changes_no_factor():
    for switches, goes_on in (({"merge": False, "redraw": False}, True), ({"merge": False}, False)):
        model = adapted(**switches)
        average = torch.optim.swa_utils.AveragedModel(model)
        lopsided.advance_chain(model)
        if goes_on:
            average.update_parameters(model)
        else:
            with pytest.raises(LopsidedError, match="within one link"):
                average.update_parameters(model)
