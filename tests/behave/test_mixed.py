"""Batches in which every row has its adapter, in a forward pass and in `generate`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lopsided
from lopsided import LopsidedError
from lopsided.tuner import layers_of
from tests import tiny
from tests.behave.cases import (
    ARCHITECTURES,
    GENERATORS,
    adapted,
    another,
    assert_base_is_original,
    assert_near,
    base,
    config,
    everywhere,
    logits,
    oracle,
    original,
    pair,
    plain_logits,
    trained,
    trained_tensors,
    walk,
)

ROWS = ["other", "__base__", "default"]


def apart(model: nn.Module, names: list[str], call) -> list[torch.Tensor]:
    """What `call` gives for the whole batch when each name is the one adapter, row by row."""
    outputs = {}
    for name in sorted(set(names)):
        if name == "__base__":
            with model.disable_adapter():
                outputs[name] = call(model)
        else:
            model.set_adapter(name)
            outputs[name] = call(model)
    model.set_adapter("default")
    return [outputs[name][row] for row, name in enumerate(names)]


@everywhere(6)
def test_each_row_is_its_adapters(arch, method):
    model = pair(arch, method)
    learns, alone = trained_tensors(model).keys(), logits(model)
    expected = {name: oracle(arch, model, [] if name == "__base__" else [name]) for name in ROWS}
    assert len({tensor[0].sum().item() for tensor in expected.values()}) == 3
    for rows in (ROWS, ["default", "default", "other"], ["__base__"] * 3):
        mixed = logits(model, adapter_names=rows)
        assert_near(mixed, torch.stack([expected[name][row] for row, name in enumerate(rows)]))
    assert torch.equal(logits(model), alone), "the next plain batch is the active adapter's"
    assert trained_tensors(model).keys() == learns
    assert_base_is_original(model, arch)


@everywhere(6)
def test_what_cannot_be_mixed_is_refused_and_leaves_the_model_alone(arch, method):
    model = pair(arch, method)
    expected = logits(model)
    refused = [
        (["default", "nobody", "other"], "nobody"),
        (["default", "other"], r"2.*3|3.*2"),
        (["default"] * 4, r"4.*3|3.*4"),
    ]
    for rows, words in refused:
        with pytest.raises(ValueError, match=words) as error:
            logits(model, adapter_names=rows)
        assert "\n" not in str(error.value)
        assert torch.equal(logits(model), expected)
    with pytest.raises(LopsidedError, match="training mode"):
        logits(model.train(), adapter_names=ROWS)
    model.eval()
    model.merge_adapter()
    with pytest.raises(LopsidedError, match="unmerge"):
        logits(model, adapter_names=ROWS)
    model.unmerge_adapter()
    assert torch.equal(logits(model), expected)
    assert_base_is_original(model, arch)


@everywhere()
def test_disabled_adapters_are_off_in_a_mixed_batch_too(arch, method):
    """PEFT takes no notice of the names then: what is switched off is off."""
    model = pair(arch, method)
    with model.disable_adapter():
        assert_near(logits(model, adapter_names=ROWS), plain_logits(arch), share=1e-6)
    assert_near(logits(model, adapter_names=ROWS)[2], logits(model)[2], share=1e-5)


@pytest.mark.parametrize("method", tiny.ADAPTERS)
def test_layers_without_the_named_adapter_compute_the_base(method):
    """Each adapter sits on some layers only, and a row is unchanged in the others."""
    model = adapted("mlp", method, heads=False, target_modules=["up"])
    model.add_adapter("other", config("mlp", another(method), heads=False, target_modules=["down"]))
    assert all(name.endswith(".default.weight") for name in trained_tensors(model)), (
        "an inactive adapter does not learn"
    )
    walk(model), walk(model, "other")
    model.eval()
    assert {len(layer.adapters) for layer in layers_of(model).values()} == {1}
    mixed = logits(model, adapter_names=ROWS)
    for row, name in enumerate(ROWS):
        assert_near(mixed[row], oracle("mlp", model, [] if name == "__base__" else [name])[row])


# -- generate ------------------------------------------------------------------------------------------------


def generate(model: nn.Module, **options) -> torch.Tensor:
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0, **options}
    with torch.no_grad():
        return model.generate(**tiny.inputs(model), **settings)


@everywhere(3, GENERATORS)
def test_generate_writes_what_the_merged_model_writes(arch, method):
    model = trained(arch, method)
    written = generate(model)
    assert written.shape[0] == 3
    with model.disable_adapter():
        assert torch.equal(generate(model), generate(original(arch)))
    assert torch.equal(written, generate(trained(arch, method).merge_and_unload()))


@pytest.mark.parametrize("beams", [1, 2])
@everywhere(3, GENERATORS)
def test_generate_for_a_mixed_batch(arch, method, beams):
    model = pair(arch, method)
    expected = apart(model, ROWS, lambda m: generate(m, num_beams=beams))
    mixed = generate(model, num_beams=beams, adapter_names=ROWS)
    for row, wanted in enumerate(expected):
        assert torch.equal(mixed[row], wanted), (row, ROWS[row])
    assert_base_is_original(model, arch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("arch", GENERATORS)
def test_generate_on_a_16_bit_base(arch, dtype):
    for method in ("c3la", "rac_a", "lora"):
        model = lopsided.adapt(base(arch).to(dtype), method, r=2, target_modules=list(ARCHITECTURES[arch].targets))
        walk(model.eval())
        assert generate(model).shape[0] == 3
