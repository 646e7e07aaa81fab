"""Export: one plain LoRA adapter, for a process that never heard of Lopsided."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

import lopsided
from lopsided import METHODS, LopsidedError
from tests import tiny

STOCK = """
import sys, torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForSequenceClassification
base = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
ids = torch.load(sys.argv[3])
for name in sys.argv[4:]:
    model = PeftModel.from_pretrained(base, f"{sys.argv[2]}/{name}").eval()
    with torch.no_grad():
        torch.save(model(**ids).logits, f"{sys.argv[2]}/{name}/logits.pt")
    base = model.unload()
assert not any(module.split(".")[0] == "lopsided" for module in sys.modules)
"""


def trained(name: str, build=tiny.bert, **options):
    chained = METHODS[name].chain is not None
    model = lopsided.adapt(build(), name, r=2, target_modules="all-linear", links=3 if chained else None, **options)
    optimizer = tiny.train_a_little(model)
    for _ in range(2 if chained else 0):
        lopsided.advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)
    return model.eval()


def test_every_method_loads_as_lora_in_a_process_without_lopsided(tmp_path):
    tiny.bert().save_pretrained(tmp_path / "base")
    torch.save(tiny.inputs(tiny.bert()), tmp_path / "ids.pt")
    expected = {}
    for name in tiny.ADAPTERS:
        model = trained(name)
        expected[name] = tiny.logits(model)
        config = lopsided.to_lora(model, tmp_path / name)
        assert config.r == 2 * (3 if METHODS[name].chain else 1)
    command = [sys.executable, "-c", STOCK, tmp_path / "base", tmp_path, tmp_path / "ids.pt", *tiny.ADAPTERS]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    for name, logits in expected.items():
        stock = torch.load(tmp_path / name / "logits.pt")
        torch.testing.assert_close(stock, logits, atol=1e-5, rtol=0, msg=name)


def test_what_is_returned_is_peft_s_configuration_in_one_line(tmp_path):
    config = lopsided.to_lora(trained("cla"), tmp_path / "lora")
    assert isinstance(config, LoraConfig)
    assert repr(config) == f"PlainLoraConfig(r=2, on {len(config.target_modules)} modules)"
    assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["r"] == 2
    assert LoraConfig.from_pretrained(str(tmp_path / "lora")).to_dict() == config.to_dict()


@pytest.mark.parametrize("build", [tiny.gpt2, tiny.llama, tiny.vit])
def test_other_architectures_export(build, tmp_path):
    model = trained("c3la", build)
    lopsided.to_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(build(), str(tmp_path)).eval()
    torch.testing.assert_close(tiny.logits(lora), tiny.logits(model), atol=1e-5, rtol=0)


def test_rank_patterns_survive(tmp_path):
    model = trained("rac_b", rank_pattern={"query": 4}, alpha_pattern={"value": 3})
    lopsided.to_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(tiny.bert(), str(tmp_path)).eval()
    torch.testing.assert_close(tiny.logits(lora), tiny.logits(model), atol=1e-5, rtol=0)
    shapes = {n: t.shape[0] for n, t in load_file(tmp_path / "adapter_model.safetensors").items() if "lora_A" in n}
    assert {rank for name, rank in shapes.items() if "query" in name} == {12}
    assert {rank for name, rank in shapes.items() if "query" not in name} == {6}


def test_only_plain_lora_is_written(tmp_path):
    lopsided.to_lora(trained("bernoulli"), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert all(".lora_A.weight" in n or ".lora_B.weight" in n or ".classifier." in n for n in tensors)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_what_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(LopsidedError, match="holds no low-rank terms: a fully fine-tuned model"):
        lopsided.to_lora(tiny.bert(), tmp_path)
    with pytest.raises(LopsidedError, match="no Lopsided adapter named 'other'"):
        lopsided.to_lora(trained("cla"), tmp_path, adapter_name="other")


def test_a_failed_export_leaves_the_last_good_one(tmp_path, monkeypatch):
    model = trained("cla")
    lopsided.to_lora(model, tmp_path / "lora")
    before = (tmp_path / "lora" / "adapter_model.safetensors").read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lopsided.export.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        lopsided.to_lora(model, tmp_path / "lora")
    assert (tmp_path / "lora" / "adapter_model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]
