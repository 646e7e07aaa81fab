"""The models of the benchmarks, and the ways to fine-tune them that they compare.

A variant is written `NAME` or `NAME@LINK`: a method of `lopsided.METHODS`, at the given link of its chain, or one of
the references

    limit                no adapter: frozen weights, a trained head, and gradients that flow back to the first layer
    twin                 a second one; how far its ratio to the limit is from 1 is the measurement's noise
    peft_lora            stock `peft.LoraConfig` of the same rank, scale and targets
    peft_lora_frozen_A   the same with A frozen
    peft_16bit           the same with factors in the dtype of the weights (`autocast_adapter_dtype=False`)

In every variant the output of the embeddings requires a gradient, as it does where gradients are checkpointed, so that
all of them do the limit's work and differ by the adapter alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import peft
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
)

import lopsided
from benchmarks.measuring import Setting
from lopsided import METHODS, LopsidedError
from lopsided.method import method_named

REFERENCES = ("limit", "twin", "peft_lora", "peft_lora_frozen_A", "peft_16bit")
LIMIT, TWIN, LORA, FROZEN_A, NARROW = REFERENCES
# All linear layers of a RoBERTa encoder and none of the head; "output.dense" ends two names in each layer.
LINEAR = ["query", "key", "value", "output.dense", "intermediate.dense"]
VOCABULARY = 1000
GROUPS = ("windows", "random columns", "other B-training", "A-training", "both", "coin")


@dataclass(frozen=True)
class Trainee:
    """A model in training, its optimizer and the batch that every step learns from."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: dict[str, Tensor]

    def step(self) -> Tensor:
        """Forward, backward and update; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(**self.batch).loss
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def advance(self) -> None:
        """End the link in training and start the next one."""
        assert isinstance(self.model, peft.PeftModel)
        lopsided.advance_chain(self.model, self.optimizer)


def trainee(variant: str, setting: Setting, *, links: int | None = None, dtype: torch.dtype = torch.float32) -> Trainee:
    """The variant on the benchmarks' classifier, ready for its first step.

    Args:
        links: how many links a chained method may have; None keeps the method's own.
    """
    model = classifier(setting).to(dtype)
    model.enable_input_require_grads()
    model = adapted(variant, model, setting.r, LINEAR, links=links)
    generator = torch.Generator().manual_seed(setting.seed)
    # From 5 on, past RoBERTa's special tokens: none of these is padding.
    tokens = torch.randint(5, VOCABULARY, (setting.batch, setting.length), generator=generator)
    return ready(variant, model, {"input_ids": tokens, "labels": torch.arange(setting.batch) % 2})


def llama(
    variant: str,
    setting: Setting,
    dtype: torch.dtype,
    *,
    device: str = "cpu",
    vocabulary: int = 2000,
    links: int | None = None,
) -> Trainee:
    """The variant on a Llama-shaped model of random weights; all linear layers but the output's are adapted."""
    heads = max(1, setting.hidden // 64)
    unit = min(256, setting.hidden)
    config = LlamaConfig(
        vocab_size=vocabulary,
        num_hidden_layers=setting.layers,
        hidden_size=setting.hidden,
        intermediate_size=-(-8 * setting.hidden // 3 // unit) * unit,
        num_attention_heads=heads,
        num_key_value_heads=heads // 3 if heads % 3 == 0 else max(1, heads // 4),
        attention_dropout=setting.dropout,
        attn_implementation="sdpa",
        use_cache=False,
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(setting.seed)
        model = LlamaForCausalLM(config).to(dtype)
    model.enable_input_require_grads()
    generator = torch.Generator().manual_seed(setting.seed)
    tokens = torch.randint(0, vocabulary, (setting.batch, setting.length), generator=generator).to(device)
    model = adapted(variant, model, setting.r, "all-linear", links=links)
    return ready(variant, model, {"input_ids": tokens, "labels": tokens})


def ready(variant: str, model: nn.Module, batch: dict[str, Tensor]) -> Trainee:
    """The adapted model with AdamW on all that it trains, at the link that the variant asks for."""
    # A limit without a head trains nothing, and AdamW takes an empty group but no empty list.
    trained = lopsided.param_groups(model, lr=1e-3) or [{"params": []}]
    made = Trainee(model.train(), torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0), batch)
    for _ in range(split(variant)[1]):
        learn_something(model)
        made.advance()
    return made


def _config(setting: Setting) -> RobertaConfig:
    return RobertaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=setting.layers,
        hidden_size=setting.hidden,
        num_attention_heads=max(1, setting.hidden // 64),
        intermediate_size=4 * setting.hidden,
        max_position_embeddings=setting.length + 2,
        hidden_dropout_prob=setting.dropout,
        attention_probs_dropout_prob=setting.dropout,
        attn_implementation="sdpa",
        num_labels=2,
    )


def classifier(setting: Setting) -> RobertaForSequenceClassification:
    """A RoBERTa-shaped encoder with a classification head, of random float32 weights."""
    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        return RobertaForSequenceClassification(_config(setting))


def encoder(setting: Setting) -> RobertaModel:
    """The same without a head, so that an adapter's file holds the adapter alone."""
    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        return RobertaModel(_config(setting), add_pooling_layer=False)


def adapted(
    variant: str, model: nn.Module, r: int, targets: Sequence[str] | str, *, links: int | None = None
) -> nn.Module:
    """The model as the variant trains it, at the first link of a chain; every adapter has alpha = 2r, no dropout."""
    name, _ = split(variant)
    targets = targets if isinstance(targets, str) else list(targets)
    if name in (LIMIT, TWIN):
        for parameter_name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter_name.startswith("classifier."))
        return model
    if name in (LORA, FROZEN_A, NARROW):
        task = peft.TaskType.SEQ_CLS if isinstance(model, RobertaForSequenceClassification) else None
        config = peft.LoraConfig(r=r, lora_alpha=2 * r, lora_dropout=0.0, target_modules=targets, task_type=task)
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=name != NARROW)
        for parameter_name, parameter in model.named_parameters():
            if name == FROZEN_A and ".lora_A." in parameter_name:
                parameter.requires_grad_(False)
        return model
    model = lopsided.adapt(model, name, r=r, alpha=2 * r, target_modules=targets, links=links)
    # For methods that read data; the others leave it. In short rows, which fit every setting.
    tokens = torch.randint(5, VOCABULARY, (64, 4), generator=torch.Generator().manual_seed(0))
    lopsided.calibrate(model, [{"input_ids": tokens}])
    return model


@torch.no_grad()
def learn_something(model: nn.Module, size: float = 1e-3) -> None:
    """Move the adapters' trained factors by noise: ΔW is then about a percent of these weights, as after training."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lopsided_" in name:
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=size)


# -- names ---------------------------------------------------------------------------------------------------


def split(variant: str) -> tuple[str, int]:
    """The variant's name and link: "c3la@2" -> ("c3la", 2).

    Raises:
        LopsidedError: for an unknown method, one that is no adapter, or a link of a method without a chain.
    """
    name, _, link = variant.partition("@")
    if link and not link.isdigit():
        raise LopsidedError(f"expected a variant such as cla or c3la@2, got {variant!r}; correct --only")
    if name not in REFERENCES:
        method = method_named(name)
        if not method.is_adapter:
            raise LopsidedError(f"expected a method that is an adapter, got {name!r}; leave it out of --only")
    if link and (name in REFERENCES or METHODS[name].chain is None):
        raise LopsidedError(f"{name!r} has no chain, got {variant!r}; ask for {name}")
    return name, int(link or 0)


def group(variant: str) -> str | None:
    """The group that the targets put a method into, by its parts; None for a reference."""
    name, _ = split(variant)
    if name in REFERENCES:
        return None
    method = METHODS[name]
    if not method.side.freezes_A:
        return method.side.group
    if isinstance(method.sketch, lopsided.Window):
        return "windows"
    # Whatever chose them, columns that are no neighbours cost the same.
    return "random columns" if isinstance(method.sketch, lopsided.Selector) else f"other {method.side.group}"


def groups(variants: Sequence[str]) -> dict[str, str]:
    """The group of each variant that is a method."""
    named = {variant: group(variant) for variant in variants}
    return {variant: where for variant, where in named.items() if where is not None}


def adapters(*, chained: bool | None = None) -> list[str]:
    """The methods that are adapters; only those with, or without, a chain where `chained` says so."""
    found = [name for name, method in METHODS.items() if method.is_adapter]
    return [name for name in found if chained is None or (METHODS[name].chain is not None) == chained]


def representatives(*, chained: bool) -> list[str]:
    """The first method of each group that has one, in the order of the groups."""
    first: dict[str | None, str] = {}
    for name in adapters(chained=chained):
        first.setdefault(group(name), name)
    return [first[where] for where in GROUPS if where in first]


def chosen(only: Sequence[str] | None, default: Sequence[str], references: Sequence[str]) -> list[str]:
    """Return the references and the requested variants, or the default ones; names are checked before any work."""
    variants = list(dict.fromkeys([*references, *(default if only is None else only)]))
    for variant in variants:
        split(variant)
    return variants
