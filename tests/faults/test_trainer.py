"""A plain `transformers.Trainer`: what it is told at its start, and where it can go on."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

import lopsided
from lopsided import ChainCallback, LopsidedError, LopsidedWarning
from tests import tiny
from tests.faults.plain import rows

IDLE = r"the adapter's chain stands at link 0, and this Trainer has nothing to advance it; pass callbacks=\["


def adapted(method: str = "c3la", **options):
    return lopsided.adapt(tiny.bert(), method, r=2, target_modules=["query"], **options)


def trainer(model, folder, *, callbacks=(), optimizers=(None, None), steps: int = 4, **options) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **{"save_strategy": "no", **options},
    )
    return Trainer(model=model, args=arguments, train_dataset=rows(), callbacks=list(callbacks), optimizers=optimizers)


# -- a chain that nobody advances ----------------------------------------------------------------------------


def test_a_trainer_without_the_callback_is_told_so_once(tmp_path):
    with pytest.warns(LopsidedWarning, match=IDLE) as caught:
        trainer(adapted(), tmp_path).train()
    assert sum(issubclass(warning.category, LopsidedWarning) for warning in caught) == 1


class Own(ChainCallback):
    """A user's own schedule."""


@pytest.mark.parametrize("callback", [ChainCallback, Own])
def test_a_trainer_with_the_callback_is_told_nothing(tmp_path, callback):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LopsidedWarning)
        trainer(adapted(), tmp_path, callbacks=[callback()]).train()


def test_nobody_else_is_told(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LopsidedWarning)
        trainer(adapted("cla"), tmp_path).train()
        # A loop of one's own advances by hand.
        tiny.train_a_little(adapted())
        # The last link has nothing to advance to.
        model = adapted(links=2)
        lopsided.advance_chain(model)
        trainer(model, tmp_path).train()


def test_a_trainer_that_resumes_on_the_last_link_is_told_nothing(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    trainer(adapted(links=2), tmp_path, callbacks=[ChainCallback()], **options).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", LopsidedWarning)
        trainer(adapted(links=2), tmp_path, steps=6, **options).train(resume_from_checkpoint=True)


# -- an optimizer that can't be chained with -----------------------------------------------------------------


def test_an_optimizer_with_copies_is_refused_before_the_first_step(tmp_path):
    model = adapted()
    copies = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(copies, lr=1e-2)
    run = trainer(model, tmp_path, callbacks=[ChainCallback()], optimizers=(optimizer, None))
    with pytest.raises(LopsidedError, match=r"does not hold the adapter's own factor: .*keeps master copies"):
        run.train()
    assert run.state.global_step == 0


# -- where a killed Trainer goes on --------------------------------------------------------------------------


@pytest.mark.parametrize("state", [None, "", '{"global_step": 4, "log_hist'])
def test_the_last_whole_checkpoint_is_found_where_trainers_own_search_fails(tmp_path, state):
    options = {"callbacks": [ChainCallback()], "save_strategy": "steps", "save_steps": 2, "steps": 6}
    whole = trainer(adapted(links=3), tmp_path / "whole", **options)
    whole.train()
    cut = tmp_path / "cut"
    options["callbacks"] = [ChainCallback(), tiny.Interrupt(5)]
    with pytest.raises(KeyboardInterrupt):
        trainer(adapted(links=3), cut, **options).train()
    torn = cut / "checkpoint-4" / "trainer_state.json"
    torn.unlink()
    if state is not None:
        torn.write_text(state)
    (cut / "checkpoint-9").write_text("not a folder")
    (cut / "checkpoint-best").mkdir()
    options["callbacks"] = [ChainCallback()]
    with pytest.raises((json.JSONDecodeError, FileNotFoundError)):
        trainer(adapted(links=3), cut, **options).train(resume_from_checkpoint=True)
    found = lopsided.last_checkpoint(cut)
    assert found == str(cut / "checkpoint-2")
    trainer(adapted(links=3), cut, **options).train(resume_from_checkpoint=found)
    mine, theirs = (load_file(run / "checkpoint-6" / "adapter_model.safetensors") for run in (cut, tmp_path / "whole"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_without_a_whole_checkpoint_training_starts_anew(tmp_path):
    assert lopsided.last_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "checkpoint-2").mkdir()
    assert lopsided.last_checkpoint(str(tmp_path)) is None
