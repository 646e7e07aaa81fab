"""TRL's own trainers on adapters of lopsided: new ones, saved ones and saved chains.

A reference that TRL makes of the policy's adapter computes what the policy computes before the first step, so the first
loss of DPO is ln 2, and stays as it is while the policy learns.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import lopsided
from lopsided import LopsidedConfig, advance_chain
from lopsided.tuner import layers_of

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")
pytestmark = [pytest.mark.more, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "the", "a", "river", "stone", "cloud", "lamp", "is", "was"]
WORDS += ["good", "bad", "old", "new", "red", "blue"]
TARGETS = ["q_proj", "v_proj", "down_proj"]
METHODS = ["asym_b", "cla", "rac_b", "c3la", "bernoulli", "lora"]
STARTS = ["new", "saved", "saved chain"]
CASES = [
    (start, name) for start in STARTS for name in METHODS if start != "saved chain" or lopsided.METHODS[name].chain
]
EACH = pytest.mark.parametrize(("start", "name"), CASES)


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left", **names)


def config_of(name: str) -> LopsidedConfig:
    links = {"links": 3} if lopsided.METHODS[name].chain else {}
    return LopsidedConfig(method=name, r=2, target_modules=TARGETS, task_type="CAUSAL_LM", **links)


def policy(start: str, name: str, tmp_path) -> PeftModel:
    """An adapter to go on from: new, or trained, saved and loaded; a saved chain stands at its last link."""
    links = {"links": 3} if lopsided.METHODS[name].chain else {}
    model = lopsided.adapt(base(), name, r=2, target_modules=TARGETS, **links)
    if start == "new":
        return model
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=3e-2))
    for link in range(3 if start == "saved chain" else 1):
        if link:
            advance_chain(model, optimizer)
        for _ in range(3):
            model(input_ids=torch.arange(4, 16)[None], labels=torch.arange(4, 16)[None]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(tmp_path / "policy")
    return PeftModel.from_pretrained(base(), str(tmp_path / "policy"), is_trainable=True)


def answers(model) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(4, 16)[None]).logits


def options(tmp_path, **more):
    shared = {
        "output_dir": str(tmp_path / "out"),
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    return {**shared, **more}


def run(trainer) -> list[float]:
    """The logged losses."""
    with warnings.catch_warnings():
        # Chains that are not at their last link have nothing here to advance them, and say so.
        warnings.simplefilter("ignore", lopsided.LopsidedWarning)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def factors(model, adapter: str) -> dict[str, torch.Tensor]:
    layers = layers_of(model, adapter)
    return {f"{n} {k}": f.detach().clone() for n, layer in layers.items() for k, f in layer.trained(adapter).items()}


def assert_moved(before: dict[str, torch.Tensor], model, adapter: str = "default") -> None:
    now = factors(model, adapter)
    assert now.keys() == before.keys()
    assert all(torch.isfinite(f).all() for f in now.values())
    assert any(not torch.equal(f, before[n]) for n, f in now.items()), "the policy must learn"


@EACH
def test_sft(start, name, tokenizer, tmp_path):
    model = policy(start, name, tmp_path)
    before, expected = factors(model, "default"), answers(model)
    texts = ["the river is old", "a stone was red", "the lamp is blue", "a cloud is new"]
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**options(tmp_path, max_length=16)),
        train_dataset=Dataset.from_dict({"text": texts * 2}),
        processing_class=tokenizer,
    )
    losses = run(trainer)
    assert min(losses[1:]) < losses[0]
    assert_moved(before, model)
    model.save_pretrained(tmp_path / "end")
    again = PeftModel.from_pretrained(base(), str(tmp_path / "end"))
    assert torch.equal(answers(again), answers(model))
    assert not torch.equal(answers(model), expected)


PREFERENCES = {
    "prompt": ["the river is", "a stone was", "the lamp is", "a cloud was"] * 2,
    "chosen": [" good", " new", " red", " old"] * 2,
    "rejected": [" bad", " old", " blue", " new"] * 2,
}


@EACH
@pytest.mark.parametrize("reference", ["none", "given"])
def test_dpo(start, name, reference, tokenizer, tmp_path):
    model = policy(start, name, tmp_path)
    before, expected = factors(model, "default"), answers(model)
    # A model of its own as reference: the base, merged with what the policy starts from.
    given = policy(start, name, tmp_path).merge_and_unload() if reference == "given" else None
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=given,
        args=trl.DPOConfig(**options(tmp_path, max_length=16, beta=0.5)),
        train_dataset=Dataset.from_dict(PREFERENCES),
        processing_class=tokenizer,
    )
    losses = run(trainer)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4), "the reference must start as the policy does"
    assert min(losses[1:]) < losses[0]
    assert_moved(before, model)
    if "ref" in model.peft_config:
        assert all(torch.equal(f, before[n]) for n, f in factors(model, "ref").items())
        model.set_adapter("ref")
        assert torch.equal(answers(model), expected)


def longer(completions, **kwargs):
    return [float(len(set(completion.split()))) for completion in completions]


@EACH
def test_grpo(start, name, tokenizer, tmp_path):
    model = policy(start, name, tmp_path)
    before, expected = factors(model, "default"), answers(model)
    rows = Dataset.from_dict({"prompt": ["the river is", "a stone was", "the lamp is", "a cloud was"]})
    more = {"max_completion_length": 6, "num_generations": 4, "beta": 0.1, "temperature": 1.0}
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=longer,
        args=trl.GRPOConfig(**options(tmp_path, **more)),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    run(trainer)
    assert_moved(before, model)
    divergence = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert divergence[0] == pytest.approx(0.0, abs=1e-5), "the reference must start as the policy does"
    if "ref" in model.peft_config:
        model.set_adapter("ref")
        assert torch.equal(answers(model), expected)


@pytest.mark.parametrize(("start", "name"), [("saved", "asym_b"), ("saved chain", "rac_b"), ("saved chain", "c3la")])
@pytest.mark.parametrize("kind", ["KTO", "RLOO"])
def test_kto_and_rloo(kind, start, name, tokenizer, tmp_path):
    model = policy(start, name, tmp_path)
    before, expected = factors(model, "default"), answers(model)
    if kind == "KTO":
        rows = {"prompt": PREFERENCES["prompt"], "completion": PREFERENCES["chosen"], "label": [True, False] * 4}
        trainer = trl.KTOTrainer(
            model=model,
            args=trl.KTOConfig(**options(tmp_path, max_length=16)),
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
        )
    else:
        more = {"max_completion_length": 6, "num_generations": 4, "beta": 0.1}
        trainer = trl.RLOOTrainer(
            model=model,
            reward_funcs=longer,
            args=trl.RLOOConfig(**options(tmp_path, **more)),
            train_dataset=Dataset.from_dict({"prompt": PREFERENCES["prompt"][:4]}),
            processing_class=tokenizer,
        )
    run(trainer)
    assert_moved(before, model)
    assert "ref" in model.peft_config
    model.set_adapter("ref")
    assert torch.equal(answers(model), expected)


@pytest.mark.parametrize("name", METHODS)
def test_a_configuration_that_trl_puts_on_the_model(name, tokenizer, tmp_path):
    config = config_of(name)
    before = config.to_dict()
    trainer = trl.DPOTrainer(
        model=base(),
        args=trl.DPOConfig(**options(tmp_path, max_length=16)),
        train_dataset=Dataset.from_dict(PREFERENCES),
        processing_class=tokenizer,
        peft_config=config,
    )
    losses = run(trainer)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    # PEFT notes the name of the base model and the use; nothing else is written to it.
    noted = ("base_model_name_or_path", "inference_mode", "auto_mapping")
    assert {k: v for k, v in config.to_dict().items() if k not in noted} == {
        k: v for k, v in before.items() if k not in noted
    }
