"""Tiny random models under the names that PEFT's tests ask the hub for.

Each becomes a local folder of that name. pytest runs in the folder that holds them, so that transformers takes a name
for a path, and PEFT's own branches on a model's name ("gpt2" in model_id) hold. No test that is run needs a tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DebertaConfig,
    DebertaModel,
    DebertaV2Config,
    DebertaV2Model,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

# Widths of 32 leave room for every rank that the tests ask for.
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
VOCABULARY = {"vocab_size": 99, "max_position_embeddings": 64}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}


def _opt() -> PreTrainedModel:
    config = OPTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32, **VOCABULARY
    )
    return OPTForCausalLM(config)


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=99, bos_token_id=98, eos_token_id=98)
    )


def _gptj() -> PreTrainedModel:
    config = GPTJConfig(
        n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4, vocab_size=99, bos_token_id=98, eos_token_id=98
    )
    return GPTJForCausalLM(config)


def _llama(**more: int) -> LlamaConfig:
    return LlamaConfig(**WIDTH, **VOCABULARY, **GROUPED, **more)


def _qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**WIDTH, **VOCABULARY, num_key_value_heads=2))


def _gemma3() -> PreTrainedModel:
    return Gemma3ForCausalLM(Gemma3TextConfig(**WIDTH, **VOCABULARY, **GROUPED, sliding_window=16))


def _t5() -> PreTrainedModel:
    config = T5Config(
        d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, vocab_size=99, decoder_start_token_id=0
    )
    return T5ForConditionalGeneration(config)


def _bart() -> PreTrainedModel:
    sides = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _BART_SIDE.items()}
    return BartForConditionalGeneration(BartConfig(d_model=32, **sides, **VOCABULARY))


_BART_SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": _opt,
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": _gpt2,
    "peft-internal-testing/tiny-random-GPTJForCausalLM": _gptj,
    "trl-internal-testing/tiny-random-LlamaForCausalLM": lambda: LlamaForCausalLM(_llama()),
    "peft-internal-testing/tiny-dummy-qwen2": _qwen2,
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": _gemma3,
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": _t5,
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": _bart,
    "peft-internal-testing/tiny-random-BertModel": lambda: BertModel(BertConfig(**WIDTH, **VOCABULARY)),
    "peft-internal-testing/tiny-random-RobertaModel": lambda: RobertaModel(RobertaConfig(**WIDTH, **VOCABULARY)),
    "peft-internal-testing/tiny-random-DebertaModel": lambda: DebertaModel(DebertaConfig(**WIDTH, **VOCABULARY)),
    "peft-internal-testing/tiny-random-DebertaV2Model": lambda: DebertaV2Model(DebertaV2Config(**WIDTH, **VOCABULARY)),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": lambda: BertForSequenceClassification(
        BertConfig(**WIDTH, **VOCABULARY)
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": lambda: RobertaForSequenceClassification(
        RobertaConfig(**WIDTH, **VOCABULARY)
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": lambda: LlamaForSequenceClassification(
        _llama(num_labels=1)
    ),
}


def build(folder: Path) -> None:
    """Write every model of `MODELS` that is not there yet into `folder / name`."""
    for name, model in MODELS.items():
        if not (folder / name / "config.json").is_file():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model().save_pretrained(folder / name)
