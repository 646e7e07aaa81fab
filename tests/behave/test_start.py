"""A new adapter: nothing changes, the right numbers are trained, in the right layers and dtypes."""

from __future__ import annotations

import functools
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model, inject_adapter_in_model
from torch import nn

import lopsided
from lopsided import METHODS, LopsidedError
from lopsided.tuner import layers_of
from tests import tiny
from tests.behave.cases import (
    ARCHITECTURES,
    LINKS,
    RANK,
    ROOT,
    adapted,
    another,
    assert_base_is,
    assert_base_is_original,
    assert_near,
    base,
    config,
    everywhere,
    fill,
    logits,
    oracle,
    original,
    pair,
    plain_logits,
    trained,
)


@everywhere()
def test_a_new_adapter_does_not_change_the_function(arch, method):
    model = adapted(arch, method)
    assert torch.equal(logits(model), plain_logits(arch))
    model.add_adapter("other", config(arch, another(method), seed=1))
    assert torch.equal(logits(model.eval()), plain_logits(arch))
    model.set_adapter("other")
    assert torch.equal(logits(model), plain_logits(arch))
    assert_base_is_original(model, arch)


@everywhere()
def test_the_function_is_that_of_the_dense_matrices(arch, method):
    model = trained(arch, method)
    assert_near(logits(model), oracle(arch, model, ["default"]))
    for layer in layers_of(model).values():
        dense = sum(B @ A for A, B in (term.dense() for term in layer.terms("default", torch.device("cpu"))))
        delta = layer.get_delta_weight("default")
        assert_near(layer.kind.matrix(delta), layer.scaling["default"] * dense)


@everywhere()
def test_the_counts_are_the_formulas(arch, method):
    model, plain = adapted(arch, method), original(arch)
    shapes = [(layer.out_features, layer.in_features) for layer in layers_of(model).values()]
    assert len(shapes) == sum(name.endswith(ARCHITECTURES[arch].targets) for name, _ in plain.named_modules())
    numbers = sum(METHODS[method].trained_numbers(*shape, RANK) for shape in shapes)
    head = ARCHITECTURES[arch].head
    heads = sum(p.numel() for p in plain.get_submodule(head).parameters()) if head else 0
    whole = sum(p.numel() for p in plain.parameters())
    # A head is there twice, as the base model's and as the adapter's.
    assert model.get_nb_trainable_parameters() == (numbers + heads, whole + numbers + heads)


@everywhere()
def test_only_the_active_adapter_is_trained_whatever_is_called(arch, method):
    model = pair(arch, method)

    def trained_names() -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    def of(*adapters: str) -> set[str]:
        return {
            name
            for name, _ in model.named_parameters()
            if name.endswith(tuple(f".{a}.weight" for a in adapters))
            or any(f".modules_to_save.{a}." in name for a in adapters)
        }

    assert trained_names() == of("default") != set()
    model.set_adapter("other")
    assert trained_names() == of("other") != set()
    model.set_adapter("default", inference_mode=True)
    assert trained_names() == set()
    model.set_requires_grad("other")
    assert trained_names() == of("other")
    model.set_requires_grad(["default", "other"])
    assert trained_names() == of("default", "other")
    model.set_requires_grad(["default", "other"], requires_grad=False)
    assert trained_names() == set()
    model.set_adapter("default")
    with model.disable_adapter():
        assert not any("lopsided" in name for name in trained_names())
    assert trained_names() == of("default")


@everywhere()
def test_inference_mode_trains_nothing(arch, method):
    model = adapted(arch, method, inference_mode=True)
    assert not any(p.requires_grad for p in model.parameters())
    fill(model)
    assert_near(logits(model), oracle(arch, model, ["default"]))


@everywhere()
def test_layers_can_be_chosen_by_number(arch, method):
    blocks = ARCHITECTURES[arch].blocks
    for chosen in (1, [1]):
        model = adapted(arch, method, layers_to_transform=chosen, layers_pattern=blocks)
        names = {name.removeprefix(ROOT) for name in layers_of(model)}
        wanted = {n for n, _ in original(arch).named_modules() if n.endswith(ARCHITECTURES[arch].targets)}
        assert names == {name for name in wanted if f"{blocks}.1." in name} != set()
    with pytest.raises(ValueError, match="layers_to_transform"):
        adapted(arch, method, layers_to_transform=[2], layers_pattern=blocks)


@everywhere()
def test_factors_are_float32_and_outputs_have_the_bases_dtype(arch, method):
    for dtype, autocast in ((torch.float16, False), (torch.bfloat16, True)):
        plain, batch, expected = _in_half(arch, dtype)
        told = nullcontext() if autocast else pytest.warns(lopsided.LopsidedWarning, match="stay float32 masters")
        with told:
            model = get_peft_model(base(arch).to(dtype), config(arch, method), autocast_adapter_dtype=autocast).eval()
        factors = [p for layer in layers_of(model).values() for p in layer.trained("default").values()]
        assert {p.dtype for p in factors} == {torch.float32}
        out = model(**batch).logits
        assert out.dtype == expected.dtype
        assert torch.equal(out, expected)
        fill(model)
        moved = model(**batch).logits
        assert moved.dtype == expected.dtype
        assert torch.isfinite(moved).all()
        assert not torch.equal(moved, expected)
        moved.float().square().mean().backward()
        assert all(p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in factors)
        assert_base_is(model, plain)


@functools.cache
def _in_half(arch, dtype):
    plain = base(arch).to(dtype)
    batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in tiny.inputs(plain).items()}
    return plain, batch, plain(**batch).logits.detach()


@everywhere()
def test_get_peft_model_a_second_time_starts_anew(arch, method):
    # Without a head: PEFT's unload leaves the trained head of the active adapter in its place.
    model = get_peft_model(base(arch), config(arch, method, heads=False)).eval()
    fill(model)
    assert not torch.equal(logits(model), plain_logits(arch))
    again = get_peft_model(model.unload(), config(arch, another(method), heads=False)).eval()
    assert torch.equal(logits(again), plain_logits(arch))
    fill(again)
    assert_near(logits(again), oracle(arch, again, ["default"]))


@everywhere()
def test_a_model_is_adapted_without_a_wrapper(arch, method):
    """As diffusers and transformers do: layers are put into a model that stays its own class."""
    model = inject_adapter_in_model(config(arch, method, heads=False), base(arch)).eval()
    assert type(model) is type(original(arch))
    assert torch.equal(logits(model), plain_logits(arch))
    assert {p.requires_grad for n, p in model.named_parameters() if "lopsided" in n} == {True}
    assert {p.requires_grad for n, p in model.named_parameters() if "lopsided" not in n} == {False}


@everywhere()
def test_the_status_says_what_is_there(arch, method):
    # Without a head: PEFT counts a trained head as a layer that never merges.
    model = pair(arch, method, heads=False)
    status = model.get_model_status()
    assert status.enabled is True
    assert status.active_adapters == ["default"]
    assert status.merged_adapters == []
    assert status.available_adapters == ["default", "other"]
    assert status.peft_types == {"default": "LOPSIDED", "other": "LOPSIDED"}
    assert status.num_adapter_layers == len(layers_of(model))
    assert status.requires_grad == {"default": True, "other": False}
    model.merge_adapter()
    with model.disable_adapter():
        status = model.get_model_status()
        assert (status.enabled, status.merged_adapters) == (False, ["default"])


@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_calls_that_have_no_meaning_here_are_refused(method):
    for arch in ("bert", "mlp"):
        with pytest.raises(ValueError, match=r"LOPSIDED.*not compatible with the `PeftMixedModel`"):
            get_peft_model(base(arch), config(arch, method), mixed=True)
    model = trained("bert", method)
    with pytest.raises(LopsidedError, match="a weighted sum of heads is not the head of the summed adapters"):
        model.add_weighted_adapter(["default"], [1.0], "sum")
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = model.no_such_thing
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        model.add_adapter("lora", LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ValueError, match="'default' already exists"):
        model.add_adapter("default", config("bert", method))
    assert list(model.peft_config) == ["default"]
    for kind in (LopsidedError, TypeError):
        with pytest.raises(kind, match="bias='all'"):
            lopsided.LopsidedConfig(method=method, bias="all")


@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_rank_and_scale_can_differ_by_layer(method):
    model = adapted("llama", method, rank_pattern={"down_proj": 3}, alpha_pattern={r"layers\.1\..*\.v_proj": 10.0})
    for name, layer in layers_of(model).items():
        rank = 3 if name.endswith("down_proj") else RANK
        alpha = 10.0 if "layers.1." in name and name.endswith("v_proj") else 2 * RANK
        assert (layer.r["default"], layer.scaling["default"]) == (rank, alpha / rank), name
    fill(model)
    if METHODS[method].chain:
        lopsided.advance_chain(model)
        fill(model, seed=5)
    assert_near(logits(model), oracle("llama", model, ["default"]))


def test_attributes_of_the_base_model_are_reached():
    model = trained("bert", "c3la")
    assert model.config.hidden_size == 16
    assert isinstance(model.get_input_embeddings(), nn.Embedding)
    assert model.active_adapters == ["default"]
    assert model.peft_config["default"].links == LINKS
    assert model.peft_config["default"].task_type == TaskType.SEQ_CLS
    layer = next(iter(layers_of(model).values()))
    # Not the weight itself: code that computed with it would leave the adapter out.
    assert layer.weight.data_ptr() == layer.base_layer.weight.data_ptr()
    assert layer.weight.shape == layer.base_layer.weight.shape
    assert layer.bias is layer.base_layer.bias
