"""What was forgotten, from names: an adapter's folder, its base's, and a reference file."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM

import lopsided
from lopsided import LopsidedError
from lopsided.diagnose.sections.forgetting import forgetting
from tests.diagnose.cases import of_adapter, of_run
from tests.tiny_runs import FILLER


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "reference.txt"
    path.write_text("\n".join(" ".join((*FILLER[i % 8 :], *FILLER[: i % 8])) for i in range(24)) + "\n")
    return path


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"sentence1": FILLER[i % 8], "sentence2": " ".join(FILLER[: i % 7 + 1]), "label": i % 5} for i in range(30)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def adapter_of(llama, folder, size: float) -> str:
    model = lopsided.adapt(AutoModelForCausalLM.from_pretrained(llama), "asym_b", r=4, seed=1)
    for name, parameter in model.named_parameters():
        if "lopsided_B" in name:
            parameter.data.normal_(std=size)
    model.save_pretrained(folder)
    return folder


def test_an_adapter_of_zero_changes_nothing_and_a_wild_one_does(llama, text, tmp_path):
    none = forgetting(of_adapter(adapter_of(llama, tmp_path / "zero", 0.0), llama, reference=text))
    assert (none["change"], none["low"], none["high"]) == (0, 0, 0)
    assert (none["reference"], none["metric"], none["better"], none["rows"]) == ("reference.txt", "loss", "low", 24)
    wild = forgetting(of_adapter(adapter_of(llama, tmp_path / "wild", 3.0), llama, reference=text))
    assert wild["base"] == none["base"]
    # The base is random, so that its loss may fall as well.
    assert wild["change"] == pytest.approx(wild["tuned"] - wild["base"])
    assert wild["low"] < wild["change"] < wild["high"]
    assert abs(wild["change"]) > 0.1


def test_a_classifiers_run_is_judged_by_its_encoder(run_once, bert, words, pairs):
    folder, _ = run_once(method="asym_b", model=bert, task=words, steps=8, target_modules="all-linear")
    found = forgetting(of_run(folder, reference=pairs))
    assert (found["metric"], found["better"], found["rows"]) == ("spearman", "high", 30)
    assert found["change"] == pytest.approx(found["tuned"] - found["base"])
    assert found["change"] != 0


def test_an_encoder_without_a_language_models_head_reads_no_text(run_once, bert, words, text):
    folder, _ = run_once(method="asym_b", model=bert, task=words, steps=8, target_modules="all-linear")
    with pytest.raises(LopsidedError, match=r"a language model's head, got .* with BertModel; pass scored"):
        forgetting(of_run(folder, reference=text))
