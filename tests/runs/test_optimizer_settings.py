"""What a run hands to its optimizer and its trainer."""

from __future__ import annotations

import pytest
from transformers import TrainerCallback, TrainingArguments

from lopsided.runs import TrainConfig, train


class Seen(TrainerCallback):
    """Keeps what the trainer learns with."""

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        self.clip, self.betas = args.max_grad_norm, {group["betas"] for group in optimizer.param_groups}


@pytest.mark.parametrize(
    ("settings", "clip", "betas"),
    [({}, 1.0, (0.9, 0.999)), ({"max_grad_norm": 0.0, "adam_beta2": 0.95}, 0.0, (0.9, 0.95))],
)
def test_gradient_clip_and_second_decay(tmp_path, bert, words, settings, clip, betas):
    seen = Seen()
    config = TrainConfig(
        out=tmp_path / "run", model=bert, task=words, method="lora", rank=2, steps=2, evaluations=1, **settings
    )
    train(config, callbacks=[seen])
    assert (seen.clip, seen.betas) == (clip, {betas})


def test_a_run_that_says_nothing_clips_as_transformers_does(tmp_path):
    assert TrainingArguments(output_dir=str(tmp_path)).max_grad_norm == 1.0
