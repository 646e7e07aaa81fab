"""Modes and gradient flags are changed inside a block, and every module and parameter is as it was after it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from lopsided.models.mode_contexts import gradients_of, model_mode


def model() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(), nn.Linear(2, 1)))
    made[1][0].eval()
    made[0].weight.requires_grad_(False)
    return made


def flags(module: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in module.parameters()]


@pytest.mark.parametrize("training", [True, False])
def test_every_module_gets_its_own_mode_back_after_an_error_too(training):
    module = model()
    before = [inner.training for inner in module.modules()]
    assert len(set(before)) == 2
    with contextlib.suppress(KeyError), model_mode(module, training=training):
        assert all(inner.training is training for inner in module.modules())
        raise KeyError
    assert [inner.training for inner in module.modules()] == before


def test_the_named_parameters_alone_have_gradients():
    module = model()
    before = flags(module)
    with contextlib.suppress(KeyError), torch.no_grad(), gradients_of(module, [module[0].weight]):
        assert flags(module) == [True, False, False, False]
        assert torch.is_grad_enabled()
        raise KeyError
    assert flags(module) == before
    with gradients_of(module, []):
        assert not any(flags(module))
