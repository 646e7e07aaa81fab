"""Tiny random models of real architectures, and the methods that are adapters."""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from lopsided import METHODS

ADAPTERS = [name for name, method in METHODS.items() if method.is_adapter]
CHAINS = [name for name in ADAPTERS if METHODS[name].chain is not None]
METHODS_LETTERS = {name: METHODS[name].adapter_side.letters for name in ADAPTERS}


def _seeded(build, seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()


def bert(seed: int = 0):
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=40, num_labels=3
    )
    return _seeded(lambda: BertForSequenceClassification(config), seed)


def gpt2(seed: int = 0):
    return _seeded(lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40)), seed)


def llama(seed: int = 0):
    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        vocab_size=40,
        tie_word_embeddings=True,
    )
    return _seeded(lambda: LlamaForCausalLM(config), seed)


def vit(seed: int = 0):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
    )
    return _seeded(lambda: ViTForImageClassification(config), seed)


def bart(seed: int = 0):
    config = BartConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        vocab_size=40,
        max_position_embeddings=32,
    )
    return _seeded(lambda: BartForConditionalGeneration(config), seed)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(10, 14), nn.Linear(14, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class MLP(nn.Module):
    """A module of a user's own, without a configuration: features (n, 10) -> logits (n, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(10, 3)

    def forward(self, features: torch.Tensor) -> SequenceClassifierOutput:
        for block in self.layers:
            features = block(features)
        return SequenceClassifierOutput(logits=self.head(features))


def mlp(seed: int = 0):
    return _seeded(MLP, seed)


def inputs(model) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(model, MLP):
        return {"features": torch.randn(3, 10, generator=generator)}
    if model.config.model_type == "vit":
        return {"pixel_values": torch.randn(3, 3, 8, 8, generator=generator)}
    return {"input_ids": torch.randint(0, 40, (3, 6), generator=generator)}


def train_a_little(model, steps: int = 3, lr: float = 1e-2):
    """A few AdamW steps on the logits' squares; returns the optimizer."""
    import lopsided

    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=lr))
    run_steps(model, optimizer, steps)
    return optimizer


def run_steps(model, optimizer, steps: int) -> None:
    batch = inputs(model)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(**batch).logits - 1.0).square().mean().backward()
        optimizer.step()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs(model)).logits


class Interrupt(TrainerCallback):
    """Ends a run as a user's Ctrl-C after that step would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt
