"""Chains that train both factors keep no past sketch: it was only where a factor started."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict

import lopsided
from lopsided import METHODS, advance_chain
from lopsided.tuner import layers_of
from tests import tiny

BOTH = [name for name in tiny.CHAINS if not METHODS[name].adapter_side.keeps_sketch]


def chained(name: str):
    return lopsided.adapt(tiny.mlp(), name, r=2, links=4, target_modules=["up", "down"])


def sketch_bytes(model) -> int:
    sketches = [s.factor for layer in layers_of(model).values() for s in layer.adapters["default"].sketches]
    return sum(factor.untyped_storage().nbytes() for factor in sketches if isinstance(factor, torch.Tensor))


def walk(model, optimizer, links: int) -> None:
    for _ in range(links):
        advance_chain(model, optimizer)
        tiny.run_steps(model, optimizer, 2)


def test_there_are_such_chains():
    assert {"cola", "relora"} <= set(BOTH)


@pytest.mark.parametrize("name", BOTH)
def test_a_chain_s_sketches_take_the_memory_of_one(name):
    model = chained(name)
    optimizer, one = tiny.train_a_little(model), sketch_bytes(model)
    assert one > 0
    walk(model, optimizer, 3)
    numbers = 4 * 2 * len(layers_of(model)) * 3
    assert sketch_bytes(model) <= one + numbers, "a past sketch takes a number or two"


@pytest.mark.parametrize("name", BOTH)
def test_going_back_to_an_earlier_link_and_on_again_gives_the_first_walk(name):
    model = chained(name)
    optimizer = tiny.train_a_little(model)
    walk(model, optimizer, 1)
    saved, logits = {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}, tiny.logits(model)
    walk(model, optimizer, 2)
    for target in (model, chained(name)):
        set_peft_model_state_dict(target, saved)
        assert torch.equal(tiny.logits(target), logits)
        for layer in layers_of(target).values():
            adapter = layer.adapters["default"]
            assert torch.equal(adapter.sketches[-1].matrix(), adapter.draw(1, None).matrix())
            assert adapter.sketches[-1].whole


@pytest.mark.parametrize("name", BOTH)
def test_a_new_adapter_like_one_at_a_later_link_starts_at_its_sketch(name):
    model = chained(name)
    walk(model, tiny.train_a_little(model), 2)
    model.add_adapter("second", model.peft_config["default"])
    for layer in layers_of(model).values():
        start = layer.adapters["default"].sketches[-1].matrix()
        assert start.abs().sum() > 0
        assert torch.equal(layer.trained("second")["A"], start)
