"""Bounds count the model that is really built: its layers by the task's class, all of its numbers, its head's."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AlbertConfig,
    BartConfig,
    BertConfig,
    BigBirdConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    MPNetConfig,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

import lopsided
from lopsided import METHODS, LopsidedError
from lopsided.models.load import _class_and_head
from lopsided.models.registry import ModelSource
from lopsided.models.skeleton import skeleton
from lopsided.models.task_classes import CLASSES, Goal
from lopsided.tasks.kinds import KINDS
from lopsided.theory import all_bounds, generalization_bound, layer_dims, model_numbers
from lopsided.tuner import layers_of

SMALL = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40},
    **{"max_position_embeddings": 32, "pad_token_id": 0},
}
ENCODERS = {
    "albert": AlbertConfig(**SMALL, embedding_size=8),
    "bert": BertConfig(**SMALL),
    "big_bird": BigBirdConfig(**SMALL),
    "camembert": CamembertConfig(**SMALL),
    "deberta-v2": DebertaV2Config(**SMALL),
    "distilbert": DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=40),
    "electra": ElectraConfig(**SMALL, embedding_size=8),
    "mpnet": MPNetConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL),
    "xlm-roberta": XLMRobertaConfig(**SMALL),
}
DECODERS = {
    "gpt2": GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, pad_token_id=0),
    "llama": LlamaConfig(**SMALL, num_key_value_heads=1),
}
SEQ2SEQ = {
    "bart": BartConfig(
        **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 40, "max_position_embeddings": 32},
    ),
    "t5": T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0),
}
CASES = [
    *[(name, kind) for name in (*ENCODERS, *DECODERS, *SEQ2SEQ) for kind in ("classification", "regression")],
    *[(name, "generation") for name in (*DECODERS, *SEQ2SEQ)],
]
CONFIGS = {**ENCODERS, **DECODERS, **SEQ2SEQ}


def task_of(kind: str) -> Goal:
    """What `load_model` reads of a task: its kind and its labels."""
    return Goal(name="a task", kind=kind, labels=("a", "b", "c") if kind == "classification" else ())


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda value: str(value))
def test_the_counts_are_those_of_the_model_that_is_trained(name, kind, tmp_path):
    """Layers as `adapt` finds them, all numbers, and the head's, of the class that `load_model` builds."""
    CONFIGS[name].save_pretrained(tmp_path)
    auto, head = _class_and_head("a model", ModelSource(path=str(tmp_path)), task_of(kind))
    config = type(CONFIGS[name]).from_pretrained(
        tmp_path, **{k: v for k, v in head.items() if k != "ignore_mismatched_sizes"}
    )
    with torch.random.fork_rng():
        built = auto.from_config(config)
    counted = model_numbers(skeleton(str(tmp_path), kind, labels=3 if kind == "classification" else 1))
    assert counted.whole == sum(p.numel() for p in built.parameters())
    assert type(skeleton(str(tmp_path), kind)) is type(built)
    adapted = lopsided.adapt(built, "asym_b", r=2, target_modules="all-linear")
    assert {layer.module for layer in counted.layers} == set(layers_of(adapted.get_base_model(), "default"))
    # What is trained beside the adapters is the head.
    beside = sum(p.numel() for n, p in adapted.named_parameters() if p.requires_grad and ".lopsided_" not in n)
    assert (counted.head or 0) == beside
    assert (counted.head is None) == (kind == "generation")
    # A model with its adapters on it counts as it does without them.
    again = model_numbers(adapted)
    assert (again.whole, again.head, len(again.layers)) == (counted.whole, counted.head, len(counted.layers))


def test_a_classifier_of_robertas_shape_has_no_pooler(tmp_path):
    shape = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    RobertaConfig(**shape, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1).save_pretrained(tmp_path)
    assert len(layer_dims(skeleton(str(tmp_path)))) == 72
    counted = model_numbers(skeleton(str(tmp_path), "classification"))
    # dense and out_proj, with their biases
    assert counted.head == 768 * 768 + 768 + 768 * 2 + 2
    assert generalization_bound(counted, "full", 8, 100, 0.5).trained == counted.whole == 124_647_170
    assert generalization_bound(counted, "head", 8, 100, 0.5).trained == counted.head


def test_every_kind_of_task_has_a_class():
    assert set(CLASSES) == set(KINDS)
    with pytest.raises(LopsidedError, match=r"unknown kind of task 'classificaton'.*did you mean 'classification'"):
        skeleton("embedded", "classificaton")
    with pytest.raises(LopsidedError, match="labels must be at least 1"):
        skeleton("embedded", labels=0)


def test_without_a_head_the_head_has_no_bound():
    for given in ([(10, 20)], model_numbers([(10, 20)])):
        with pytest.raises(LopsidedError, match="trains a task's head, and there is none to count"):
            generalization_bound(given, "head", 2, 10, 0.5)
        assert {bound.method for bound in all_bounds(given, 2, 10, 0.5)} == set(METHODS) - {"head"}


def test_a_bound_that_leaves_the_floats_is_refused():
    assert generalization_bound([(10, 20)], "cla", 2, 10, 1e200).value < float("inf")
    with pytest.raises(LopsidedError, match="too large for a float"):
        generalization_bound([(10, 20)], "cla", 2, 10, 1e308)


def test_the_kind_follows_from_how_the_model_was_saved(tmp_path):
    for name, ending in (
        ("bert", "ForSequenceClassification"),
        ("gpt2", "LMHeadModel"),
        ("t5", "ConditionalGeneration"),
    ):
        config = CONFIGS[name].__class__.from_dict(CONFIGS[name].to_dict())
        config.architectures = {"gpt2": ["GPT2LMHeadModel"]}.get(name, ["BertModel"])
        config.save_pretrained(tmp_path / name)
        assert type(skeleton(str(tmp_path / name))).__name__.endswith(ending)
