"""A chain in a plain `transformers.Trainer`, as a user writes it."""

from __future__ import annotations

from pathlib import Path

import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

import lopsided
from tests import tiny


def rows(count: int = 48) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 40, (count, 6), generator=generator)
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] % 3).tolist()})


def plain_run(folder: Path, *, method: str) -> None:
    """Twelve steps in three links, saved after every other one; goes on where it was cut off."""
    model = lopsided.adapt(tiny.bert(), method, r=2, target_modules="all-linear", links=3, dropout=0.1)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=12,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            save_steps=2,
            save_total_limit=2,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        ),
        train_dataset=rows(),
        callbacks=[lopsided.ChainCallback()],
    )
    trainer.train(resume_from_checkpoint=lopsided.last_checkpoint(folder))
    model.save_pretrained(str(folder / "final"))
