"""Chains: by hand, and on schedule in a Trainer, with all that a Trainer does around them."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import lopsided
from lopsided import METHODS, ChainCallback, LopsidedError
from lopsided.tuner import layers_of
from tests import tiny


def rows(count: int = 48) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 40, (count, 6), generator=generator)
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] % 3).tolist()})


def trainer(model, folder, *, steps=12, callbacks=(), optimizers=(None, None), **options):
    defaults = {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": 0,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **{**defaults, **options}),
        train_dataset=rows(),
        eval_dataset=rows(8),
        callbacks=list(callbacks),
        optimizers=optimizers,
    )


def adapted(method="c3la", links=4, seed=0, **options):
    return lopsided.adapt(tiny.bert(), method, r=2, target_modules="all-linear", links=links, seed=seed, **options)


def link_of(model) -> int:
    return next(iter(layers_of(model).values())).adapters["default"].link


@pytest.mark.parametrize("name", tiny.CHAINS)
def test_a_trainer_run_walks_the_chain_in_even_links(name, tmp_path):
    model, chain = adapted(name), ChainCallback()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    trainer(model, tmp_path, callbacks=[chain]).train()
    assert [(event.step, event.link) for event in chain.events] == [(3, 1), (6, 2), (9, 3)]
    assert link_of(model) == 3
    assert model.peft_config["default"].link == 3
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == frozen


def test_links_by_steps_and_gradient_accumulation(tmp_path):
    model = lopsided.adapt(tiny.bert(), "rac_b", r=2, target_modules="all-linear", every=5)
    chain = ChainCallback()
    trainer(model, tmp_path, callbacks=[chain], gradient_accumulation_steps=3).train()
    assert [(event.step, event.link) for event in chain.events] == [(5, 1), (10, 2)]


def test_the_schedule_goes_on_over_an_advance(tmp_path):
    rates = {}
    for name in ("c3la", "cla"):
        links = 4 if METHODS[name].chain else None
        run = trainer(adapted(name, links=links), tmp_path, callbacks=[ChainCallback()], lr_scheduler_type="linear")
        run.train()
        rates[name] = [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]
    assert rates["c3la"] == rates["cla"]
    assert len(rates["cla"]) == 12


def test_relora_rewarms_each_link_and_leaves_the_schedule_alone(tmp_path):
    used, logged = [], []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            used.append(kwargs["optimizer"].param_groups[0]["lr"])

    model = adapted("relora", links=2)
    run = trainer(model, tmp_path, callbacks=[ChainCallback(), Watch()], lr_scheduler_type="constant")
    run.train()
    logged = [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx([1e-2] * 12)
    assert used == pytest.approx([1e-2] * 6 + [2e-3, 4e-3, 6e-3, 8e-3, 1e-2, 1e-2])


def test_the_function_is_the_same_right_before_and_after_an_advance_in_a_trainer(tmp_path):
    seen = []

    class Around(TrainerCallback):
        def __init__(self, moment):
            self.moment = moment

        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step in (3, 6, 9):
                model.eval()
                seen.append((state.global_step, self.moment, tiny.logits(model)))
                model.train()

    trainer(adapted(), tmp_path, callbacks=[Around("before"), ChainCallback(), Around("after")]).train()
    assert [(step, moment) for step, moment, _ in seen] == [(s, m) for s in (3, 6, 9) for m in ("before", "after")]
    for (_, _, before), (_, _, after) in zip(seen[::2], seen[1::2]):
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["c3la", "cola", "bernoulli"])
def test_resume_from_link_2_in_a_model_at_link_0(name, tmp_path):
    whole = trainer(adapted(name), tmp_path / "whole", callbacks=[ChainCallback()], save_strategy="steps", save_steps=4)
    whole.train()

    first = trainer(
        adapted(name),
        tmp_path / "cut",
        callbacks=[ChainCallback(), tiny.Interrupt(9)],
        save_strategy="steps",
        save_steps=4,
    )
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = trainer(adapted(name), tmp_path / "cut", callbacks=[ChainCallback()], save_strategy="steps", save_steps=4)
    assert link_of(second.model) == 0
    # Step 8 lies in link 2 of four links over 12 steps.
    second.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-8"))
    assert link_of(second.model) == 3
    whole.model.eval(), second.model.eval()
    assert torch.equal(tiny.logits(second.model), tiny.logits(whole.model))


def test_loading_a_checkpoint_of_link_2_gives_its_logits_and_its_base(tmp_path):
    model = adapted()
    optimizer = tiny.train_a_little(model)
    for _ in range(2):
        lopsided.advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    model.eval()
    expected = tiny.logits(model)
    model.save_pretrained(tmp_path)
    live = adapted().eval()
    live.load_adapter(str(tmp_path), "default", is_trainable=True)
    assert link_of(live) == 2
    assert torch.equal(tiny.logits(live), expected)


@pytest.mark.parametrize("name", ["c3la", "relora", "rac_a"])
def test_load_best_model_at_end_goes_two_links_back(name, tmp_path):
    logits_at = {}

    class Record(TrainerCallback):
        def on_save(self, args, state, control, model=None, **kwargs):
            model.eval()
            logits_at[state.global_step] = tiny.logits(model)
            model.train()

    run = trainer(
        adapted(name),
        tmp_path,
        callbacks=[ChainCallback(), Record()],
        save_strategy="steps",
        save_steps=3,
        eval_strategy="steps",
        eval_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="pretend",
    )
    # The validation figure says that step 3, at the start of link 1, was the best; the run ends in link 3.
    evaluate = run.evaluate

    def pretend(*args, **kwargs):
        metrics = evaluate(*args, **kwargs)
        return {**metrics, "eval_pretend": -abs(run.state.global_step - 3)}

    run.evaluate = pretend
    run.args.greater_is_better = True
    run.train()
    assert run.state.best_global_step == 3
    assert link_of(run.model) == 1
    run.model.eval()
    assert torch.equal(tiny.logits(run.model), logits_at[3])
    assert not torch.equal(tiny.logits(run.model), logits_at[12])


def test_lora_plus_under_a_plain_trainer_is_an_error_at_its_first_step(tmp_path):
    model = adapted("lora_plus", links=None)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LopsidedError, match=r"lr_B / lr_A = 16.*param_groups"):
        trainer(model, tmp_path).train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(LopsidedError, match="lr_B / lr_A = 16"):
        trainer(copy.deepcopy(model), tmp_path, callbacks=[ChainCallback()]).train()
    # A copied model is watched, too.
    with pytest.raises(LopsidedError, match="lr_B / lr_A = 16"):
        trainer(copy.deepcopy(model), tmp_path).train()
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-3))
    trainer(model, tmp_path, optimizers=(optimizer, None)).train()


def test_accelerates_wrapper_keeps_its_references():
    model, accelerator = adapted(), Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    model, wrapped = accelerator.prepare(model, optimizer)
    factors = [f for layer in layers_of(model).values() for f in layer.trained("default").values()]
    pointers = [f.data_ptr() for f in factors]
    tiny.run_steps(model, wrapped, 3)
    states = [optimizer.state[f]["exp_avg"] for f in factors]
    assert any(state.any() for state in states)
    lopsided.advance_chain(model, wrapped)
    assert [f.data_ptr() for f in factors] == pointers
    assert all(optimizer.state[f]["exp_avg"] is state and not state.any() for f, state in zip(factors, states))
    tiny.run_steps(model, wrapped, 2)
    assert all(f.any() for f in factors)


def test_a_stale_gradient_does_not_reach_the_next_link():
    model = adapted()
    optimizer = tiny.train_a_little(model)
    model(**tiny.inputs(model)).logits.sum().backward()
    lopsided.advance_chain(model, optimizer)
    optimizer.step()
    factors = [f for layer in layers_of(model).values() for f in layer.trained("default").values()]
    assert not any(f.any() for f in factors)


def test_advances_that_cannot_be_are_refused_and_change_nothing():
    with pytest.raises(LopsidedError, match="'cla' has no chain"):
        lopsided.advance_chain(adapted("cla", links=None))
    model = adapted(links=2)
    optimizer = tiny.train_a_little(model)
    lopsided.advance_chain(model, optimizer)
    with pytest.raises(LopsidedError, match="2 links is on its last one"):
        lopsided.advance_chain(model, optimizer)

    model = adapted()
    optimizer = tiny.train_a_little(model)
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LopsidedError, match="does not hold the adapter's own factor"):
        lopsided.advance_chain(model, other)
    layer = list(layers_of(model).values())[-1]
    layer.lopsided_B["default"].weight.data[0, 0] = float("nan")
    with pytest.raises(LopsidedError, match="NaN or Inf"):
        lopsided.advance_chain(model, optimizer)
    layer.lopsided_B["default"].weight.data.copy_(before[[k for k in before if "lopsided_B" in k][-1]])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert link_of(model) == 0


def test_links_that_do_not_fit_and_adapters_at_another_link_stop_a_trainer(tmp_path):
    with pytest.raises(LopsidedError, match="links=4, steps=3"):
        trainer(adapted(), tmp_path, steps=3, callbacks=[ChainCallback()]).train()
    model = adapted()
    lopsided.advance_chain(model, tiny.train_a_little(model))
    with pytest.raises(LopsidedError, match="stands at link 1, and a training that begins at step 0"):
        trainer(model, tmp_path, callbacks=[ChainCallback()]).train()


def test_the_callback_does_nothing_without_a_chain(tmp_path):
    chain = ChainCallback()
    trainer(adapted("cla", links=None), tmp_path, callbacks=[chain]).train()
    assert chain.events == []


def test_weight_decay_acts_on_the_current_link_only():
    model = adapted()
    optimizer = torch.optim.SGD(lopsided.param_groups(model, lr=1.0, weight_decay=0.5))
    tiny.run_steps(model, optimizer, 1)
    lopsided.advance_chain(model, optimizer)
    layer = next(iter(layers_of(model).values()))
    weight = layer.base_layer.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    assert torch.equal(layer.base_layer.weight, weight)
