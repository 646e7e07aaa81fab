"""Where past links go: into a float32 weight, or beside a 16-bit one."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

import lopsided
from lopsided.tuner import layers_of
from tests import tiny


def test_a_16_bit_base_keeps_its_links_in_float32_beside_it(tmp_path):
    model = lopsided.adapt(tiny.bert().to(torch.bfloat16), "c3la", r=2, target_modules="all-linear", links=4)
    weights = [layer.base_layer.weight.clone() for layer in layers_of(model).values()]
    optimizer = tiny.train_a_little(model, lr=1e-3)
    before = tiny.logits(model)
    for _ in range(3):
        lopsided.advance_chain(model, optimizer)
    assert torch.equal(tiny.logits(model), before)
    assert all(torch.equal(layer.base_layer.weight, w) for layer, w in zip(layers_of(model).values(), weights))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.bert().to(torch.bfloat16), str(tmp_path))
    assert torch.equal(tiny.logits(loaded), before)


def test_merging_links_into_a_16_bit_base_says_what_rounding_cost():
    model = lopsided.adapt(
        tiny.bert().to(torch.bfloat16), "c3la", r=2, target_modules=["query"], links=2, merge_links=True
    )
    optimizer = tiny.train_a_little(model, lr=1e-4)
    with pytest.warns(lopsided.LopsidedWarning, match=r"rounding to torch.bfloat16 lost [\d.]+ %"):
        lopsided.advance_chain(model, optimizer)


def test_links_can_be_kept_beside_a_float32_base():
    merged, stacked = (
        lopsided.adapt(tiny.bert(), "c3la", r=2, target_modules="all-linear", links=4, **options)
        for options in ({}, {"merge_links": False})
    )
    for model in (merged, stacked):
        optimizer = tiny.train_a_little(model)
        for _ in range(3):
            lopsided.advance_chain(model, optimizer)
            tiny.run_steps(model, optimizer, 2)
        model.eval()
    torch.testing.assert_close(tiny.logits(merged), tiny.logits(stacked), atol=1e-5, rtol=0)
    base = tiny.bert()
    for name, layer in layers_of(stacked).items():
        assert torch.equal(layer.base_layer.weight, base.get_submodule(name.removeprefix("base_model.model.")).weight)
