"""Tiny random models under the names that PEFT's tests ask the hub for.

Each becomes a local folder of that name. pytest runs in the folder that holds them, so that transformers takes a name
for a path, and PEFT's own branches on a model's name ("gpt2" in model_id) hold. No test that is run needs a tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import transformers as hf

# Widths of 32 and more leave room for every rank that the tests ask for.
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
VOCABULARY = {"vocab_size": 99, "max_position_embeddings": 64}
# Weights of the usual 0.02 would vanish beside a drawn adapter at this width, and logits would be ties.
SPREAD = 0.2
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}


def _opt() -> hf.PreTrainedModel:
    # The comparison of generated tokens takes ends off, and would leave padding by another token.
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "init_std": SPREAD, "pad_token_id": 2}
    return hf.OPTForCausalLM(hf.OPTConfig(hidden_size=32, ffn_dim=48, word_embed_proj_dim=32, **heads, **VOCABULARY))


def _gpt2() -> hf.PreTrainedModel:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=99, bos_token_id=98, eos_token_id=98)
    )


def _gptj() -> hf.PreTrainedModel:
    config = hf.GPTJConfig(
        n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4, vocab_size=99, bos_token_id=98, eos_token_id=98
    )
    return hf.GPTJForCausalLM(config)


def _llama(**more: int) -> hf.LlamaConfig:
    return hf.LlamaConfig(**WIDTH, **VOCABULARY, **GROUPED, initializer_range=SPREAD, **more)


def _qwen2() -> hf.PreTrainedModel:
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**WIDTH, **VOCABULARY, num_key_value_heads=2, initializer_range=SPREAD))


def _gemma3() -> hf.PreTrainedModel:
    return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**WIDTH, **VOCABULARY, **GROUPED, sliding_window=16))


def _t5() -> hf.PreTrainedModel:
    config = hf.T5Config(
        d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, vocab_size=99, decoder_start_token_id=0
    )
    return hf.T5ForConditionalGeneration(config)


def _encoder(kind: type[hf.PreTrainedConfig]) -> hf.PreTrainedConfig:
    return kind(**WIDTH, **VOCABULARY)


_BART_SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}


def _bart() -> hf.PreTrainedModel:
    sides = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _BART_SIDE.items()}
    return hf.BartForConditionalGeneration(hf.BartConfig(d_model=32, **sides, **VOCABULARY))


MODELS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": _opt,
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": _gpt2,
    "peft-internal-testing/tiny-random-GPTJForCausalLM": _gptj,
    "trl-internal-testing/tiny-random-LlamaForCausalLM": lambda: hf.LlamaForCausalLM(_llama()),
    "peft-internal-testing/tiny-dummy-qwen2": _qwen2,
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": _gemma3,
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": _t5,
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": _bart,
    "peft-internal-testing/tiny-random-BertModel": lambda: hf.BertModel(_encoder(hf.BertConfig)),
    "peft-internal-testing/tiny-random-RobertaModel": lambda: hf.RobertaModel(_encoder(hf.RobertaConfig)),
    "peft-internal-testing/tiny-random-DebertaModel": lambda: hf.DebertaModel(_encoder(hf.DebertaConfig)),
    "peft-internal-testing/tiny-random-DebertaV2Model": lambda: hf.DebertaV2Model(_encoder(hf.DebertaV2Config)),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": lambda: hf.BertForSequenceClassification(
        _encoder(hf.BertConfig)
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": lambda: hf.RobertaForSequenceClassification(
        _encoder(hf.RobertaConfig)
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": lambda: hf.LlamaForSequenceClassification(
        _llama(num_labels=1)
    ),
}


def build(cache: Path) -> Path:
    """Return the folder that holds every model of `MODELS` under its name; another version of this file has another."""
    version = hashlib.sha256(Path(__file__).read_bytes() + hf.__version__.encode()).hexdigest()[:8]
    folder = cache / f"hub-{version}"
    for name, model in MODELS.items():
        if not (folder / name / "model.safetensors").is_file():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model().save_pretrained(folder / name)
    return folder
