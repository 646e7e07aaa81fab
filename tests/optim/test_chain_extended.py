"""Chains whose training is longer than it was planned, or began again: with `transformers.Trainer` itself."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainerCallback

import lopsided
from lopsided import ChainCallback, LopsidedError, LopsidedWarning
from lopsided.method import Chain
from lopsided.optim.link_schedule import plan
from tests import tiny
from tests.optim.test_advance import adapted, link_of, trainer

SAVED = {"save_strategy": "steps", "save_steps": 4}


class OutOfMemory(TrainerCallback):
    """Memory that is too small for a batch of four, from some step on."""

    def __init__(self, trainer, step: int) -> None:
        self.trainer, self.step, self.batches, self.seen = trainer, step, [], []

    def on_train_begin(self, args, state, control, **kwargs):
        self.batches.append(self.trainer._train_batch_size)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        model.eval()
        self.seen.append(tiny.logits(model))
        model.train()
        if self.trainer._train_batch_size == 4 and state.global_step == self.step:
            raise RuntimeError("CUDA out of memory.")


def walked(chain: ChainCallback) -> list[tuple[int, int]]:
    return [(event.step, event.link) for event in chain.events]


def first_part(folder, *, links=4, steps=12, **options):
    trainer(adapted("c3la", links=links, **options), folder, steps=steps, callbacks=[ChainCallback()], **SAVED).train()
    return str(folder / f"checkpoint-{steps}")


def resumed(folder, checkpoint, model, steps):
    chain = ChainCallback()
    run = trainer(model, folder, steps=steps, callbacks=[chain], **SAVED)
    run.train(resume_from_checkpoint=checkpoint)
    return run, chain


def test_twice_the_links_and_the_steps_is_the_run_that_was_so_from_the_start(tmp_path):
    # A constant rate, since a linear one depends on the run's length.
    checkpoint = first_part(tmp_path / "cut")
    _, chain = resumed(tmp_path / "cut", checkpoint, adapted("c3la", links=8), 24)
    assert walked(chain) == [(12, 4), (15, 5), (18, 6), (21, 7)]


def test_links_by_steps_are_extended_by_more_steps(tmp_path):
    def model():
        return lopsided.adapt(tiny.bert(), "c3la", r=2, target_modules="all-linear", every=4)

    first = trainer(model(), tmp_path / "cut", steps=8, callbacks=[ChainCallback()], **SAVED)
    first.train()
    assert link_of(first.model) == 1
    _, chain = resumed(tmp_path / "cut", str(tmp_path / "cut" / "checkpoint-8"), model(), 16)
    assert walked(chain) == [(8, 2), (12, 3)]


@pytest.mark.parametrize(
    ("links", "steps", "expected"),
    [(4, 24, []), (5, 24, [(18, 4)]), (8, 20, [(13, 4), (15, 5), (16, 6), (18, 7)])],
)
def test_what_is_left_of_the_links_is_spread_over_what_is_left_of_the_steps(tmp_path, links, steps, expected):
    checkpoint = first_part(tmp_path / "cut")
    with pytest.warns(LopsidedWarning, match=r"at step 12 of .* stands at link 3, .* other links or steps"):
        run, chain = resumed(tmp_path / "cut", checkpoint, adapted("c3la", links=links), steps)
    assert walked(chain) == expected
    assert link_of(run.model) == links - 1


def test_more_links_than_steps_are_left_is_an_error(tmp_path):
    checkpoint = first_part(tmp_path / "cut")
    with pytest.raises(LopsidedError, match="8 links and 2 steps are left; lower links or raise the steps"):
        resumed(tmp_path / "cut", checkpoint, adapted("c3la", links=11), 14)


@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_trainer_that_starts_again_with_a_smaller_batch_goes_on(tmp_path, step):
    chain = ChainCallback()
    run = trainer(adapted("c3la", links=4), tmp_path, callbacks=[chain], auto_find_batch_size=True)
    memory = OutOfMemory(run, step)
    run.add_callback(memory)
    done = step // 3
    if done:
        with pytest.warns(LopsidedWarning, match=rf"at step 0 of 12 .* stands at link {done}, .* smaller batch"):
            run.train()
    else:
        run.train()
    assert memory.batches == [4, 3]
    left = 4 - done
    again = [(k * 12 // left, done + k) for k in range(1, left)]
    assert walked(chain) == [(3 * k, k) for k in range(1, done + 1)] + again
    assert link_of(run.model) == 3
    # The function is the same on both sides of the new start.
    torch.testing.assert_close(memory.seen[step], memory.seen[step + 1], atol=1e-5, rtol=0)


def test_a_new_training_of_a_chain_begun_is_refused_and_goes_on_when_asked(tmp_path):
    def begun():
        model = adapted("c3la", links=4)
        lopsided.advance_chain(model)
        return model

    with pytest.raises(LopsidedError) as caught:
        trainer(begun(), tmp_path, callbacks=[ChainCallback()]).train()
    for part in ("stands at link 1", "resume_from_checkpoint", "ChainCallback(go_on=True)", "merge_and_unload"):
        assert part in str(caught.value)
    chain = ChainCallback(go_on=True)
    with pytest.warns(LopsidedWarning, match="it has been trained before; new links start after these steps: 4, 8"):
        trainer(begun(), tmp_path, callbacks=[chain]).train()
    assert walked(chain) == [(4, 2), (8, 3)]


def test_an_interrupted_training_is_no_new_start(tmp_path):
    # The callback of a training that was interrupted is not taken for one that started again.
    chain = ChainCallback()
    run = trainer(adapted("c3la"), tmp_path, callbacks=[chain, tiny.Interrupt(7)], auto_find_batch_size=False)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    with pytest.raises(LopsidedError, match="the adapter stands at link 2, and a training that begins at step 0"):
        run.train()


@pytest.mark.parametrize("links", [1, 2, 5, 9])
@pytest.mark.parametrize("step", [0, 1, 6, 11])
@pytest.mark.parametrize("link", range(9))
def test_every_plan_ends_with_the_last_link(links, step, link):
    if link >= links or links - link > 12 - step:
        with pytest.raises(LopsidedError, match=r"links"):
            plan(Chain(links=links), link=link, step=step, steps=12, restarted=True)
        return
    schedule = plan(Chain(links=links), link=link, step=step, steps=12, restarted=True)
    ahead = [boundary for boundary in schedule.boundaries if boundary > step]
    assert link + schedule.due + len(ahead) == links - 1
    assert all(step < boundary < 12 for boundary in ahead)
