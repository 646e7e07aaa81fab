"""Which layers get an adapter, of which rank and scale, and which are refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import lopsided
from lopsided import LopsidedConfig, LopsidedError
from lopsided.tuner import layers_of
from tests import tiny


def adapted_names(model) -> set[str]:
    return {name.removeprefix("base_model.model.") for name in layers_of(model)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_modules": ["query", "value"]}, {"attention.self.query", "attention.self.value"}),
        ({"target_modules": r".*attention\.self\.key"}, {"attention.self.key"}),
        ({"target_modules": None}, {"attention.self.query", "attention.self.value"}),
        ({"target_modules": ["query", "key"], "exclude_modules": ["key"]}, {"attention.self.query"}),
    ],
)
def test_targets_are_taken_as_peft_takes_them(options, expected):
    model = lopsided.adapt(tiny.bert(), "cla", r=2, **options)
    assert adapted_names(model) == {f"bert.encoder.layer.{i}.{name}" for i in range(2) for name in expected}


def test_all_linear_leaves_the_head_out_and_the_head_is_trained():
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules="all-linear")
    linears = {n for n, m in tiny.bert().named_modules() if isinstance(m, nn.Linear)}
    assert adapted_names(model) == linears - {"classifier"}
    trained = {n for n, p in model.named_parameters() if p.requires_grad and "lopsided" not in n}
    assert trained == {f"base_model.model.classifier.modules_to_save.default.{n}" for n in ("weight", "bias")}


@pytest.mark.parametrize("build", [tiny.bert, tiny.gpt2, tiny.llama, tiny.vit])
def test_each_architecture_has_default_targets_and_starts_as_the_base(build):
    expected = tiny.logits(build())
    model = lopsided.adapt(build(), "c3la", r=2)
    assert torch.equal(tiny.logits(model), expected)
    tiny.train_a_little(model)
    assert not torch.allclose(tiny.logits(model), expected, atol=1e-4)


@pytest.mark.parametrize("build", [tiny.bert, tiny.gpt2, tiny.llama, tiny.vit])
@pytest.mark.parametrize("name", ["rac_b", "rac_a", "c3la"])
def test_architectures_train_advance_and_undo(build, name):
    base = build()
    original = {n: p.clone() for n, p in base.named_parameters()}
    model = lopsided.adapt(base, name, r=2, target_modules="all-linear", links=3)
    optimizer = tiny.train_a_little(model)
    before = tiny.logits(model)
    lopsided.advance_chain(model, optimizer)
    torch.testing.assert_close(tiny.logits(model), before, atol=1e-5, rtol=0)
    tiny.run_steps(model, optimizer, 2)
    model.unload()
    now = dict(base.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in original.items() if n in now and "classifier" not in n)


def test_the_task_type_is_read_off_the_class():
    types = {
        tiny.bert: "SEQ_CLS",
        tiny.gpt2: "CAUSAL_LM",
        tiny.llama: "CAUSAL_LM",
        tiny.vit: None,
    }
    for build, expected in types.items():
        config = lopsided.adapt(build(), "cla", r=2).peft_config["default"]
        assert config.task_type == expected
    assert config.modules_to_save == ["classifier"]


def test_layers_to_transform():
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"], layers_to_transform=[1])
    assert adapted_names(model) == {"bert.encoder.layer.1.attention.self.query"}


def test_rank_and_alpha_patterns_and_rslora():
    model = lopsided.adapt(
        tiny.bert(),
        "asym_b",
        r=4,
        alpha=8,
        target_modules=["query", "value"],
        rank_pattern={"layer.1.attention.self.query": 2},
        alpha_pattern={"value": 3},
    )
    layers = {n.removeprefix("base_model.model.bert.encoder."): m for n, m in layers_of(model).items()}
    shapes = {n: (m.r["default"], m.scaling["default"]) for n, m in layers.items()}
    assert shapes == {
        "layer.0.attention.self.query": (4, 2.0),
        "layer.0.attention.self.value": (4, 0.75),
        "layer.1.attention.self.query": (2, 4.0),
        "layer.1.attention.self.value": (4, 0.75),
    }
    rslora = lopsided.adapt(tiny.bert(), "cla", r=4, alpha=8, target_modules=["query"], use_rslora=True)
    assert next(iter(layers_of(rslora).values())).scaling["default"] == pytest.approx(4.0)


def test_peft_names_for_alpha_and_dropout():
    config = LopsidedConfig(method="cla", r=4, lora_alpha=12, lora_dropout=0.25)
    assert (config.alpha, config.dropout) == (12, 0.25)
    assert dataclasses.replace(config, alpha=4).alpha == 4
    with pytest.raises(LopsidedError, match="alpha=8 and lora_alpha=12 are the same option"):
        LopsidedConfig(method="cla", alpha=8, lora_alpha=12)


def test_adapter_dropout_acts_on_the_adapter_alone_and_only_in_training():
    model = lopsided.adapt(tiny.bert(), "asym_b", r=2, target_modules=["query"], dropout=0.5)
    layer = next(iter(layers_of(model).values()))
    x = torch.randn(4, 16)
    layer.train()
    assert torch.equal(layer(x), layer.base_layer(x))
    with torch.no_grad():
        layer.lopsided_B["default"].weight.normal_()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_get_peft_model_works_as_well_as_adapt():
    config = LopsidedConfig(method="cla", r=2, target_modules=["query"], task_type="SEQ_CLS")
    ours = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
    assert torch.equal(tiny.logits(get_peft_model(tiny.bert(), config)), tiny.logits(ours))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 4)
        self.conv = nn.ConvTranspose1d(4, 4, 1)
        self.attention = nn.MultiheadAttention(4, 2)
        self.small = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("target", "kind"),
    [("bag", "EmbeddingBag"), ("conv", "ConvTranspose1d"), ("attention.out_proj", "NonDynamicallyQuantizableLinear")],
)
def test_other_layers_are_refused_by_name(target, kind):
    with pytest.raises(LopsidedError, match=rf"{target} is a {kind}.*supported: torch.nn.Linear") as error:
        lopsided.adapt(Odd(), "cla", r=2, target_modules=[target])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "r", "words"),
    [
        ("cla", 5, r"r=5, d_in=4 in small"),
        ("asym_a", 5, r"r=5, d_out=4 in small"),
        ("bernoulli", 5, r"r=5, min\(d_out, d_in\)=4 in small"),
    ],
)
def test_a_rank_above_the_width_is_refused_with_the_module(method, r, words):
    with pytest.raises(LopsidedError, match=words):
        lopsided.adapt(Odd(), method, r=r, target_modules=["small"])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: lopsided.adapt(Odd(), "cla", r=2, target_modules=["nowhere"]), "nowhere"),
        (lambda: lopsided.adapt(Odd(), "cla", r=2), "no default target_modules"),
        (lambda: lopsided.adapt(Odd(), "cla", r=0, target_modules=["small"]), "got r=0"),
        (lambda: lopsided.adapt(Odd(), "cla", r=2, dropout=1.0, target_modules=["small"]), "below 1, got 1.0"),
        (lambda: lopsided.adapt(Odd(), "cla", r=2, links=3, target_modules=["small"]), "has no chain, got links=3"),
        (lambda: lopsided.adapt(Odd(), "cal", r=2, target_modules=["small"]), "did you mean 'cla'"),
        (lambda: lopsided.adapt(Odd(), "full", target_modules=["small"]), "no adapter"),
    ],
)
def test_bad_input_is_one_line(build, words):
    with pytest.raises(LopsidedError, match=words) as error:
        build()
    assert "\n" not in str(error.value)


def test_a_second_tuner_on_the_same_layers_is_refused():
    lora = get_peft_model(tiny.bert(), LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(LopsidedError, match="has adapters already"):
        lopsided.adapt(lora, "cla", r=2, target_modules=["query"])
    with pytest.raises(LopsidedError, match="already has a peft"):
        get_peft_model(lora, LopsidedConfig(method="cla", r=2, target_modules=["query"]))


def test_a_second_adapter_of_the_same_name_is_refused():
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
    with pytest.raises(ValueError, match="already exists"):
        model.add_adapter("default", LopsidedConfig(method="cla", r=2, target_modules=["query"]))


def test_repr_shows_the_way():
    ways = {"cla": "patched", "asym_b": "dense", "asym_a": "dense"}
    for name, way in ways.items():
        layer = next(iter(layers_of(lopsided.adapt(tiny.bert(), name, r=2, target_modules=["query"])).values()))
        assert f"(default): {name}, r=2, trains" in repr(layer)
        assert way in repr(layer)
