"""One adapted layer of a user's own making, and its dense oracle."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from torch import nn

import lopsided
from lopsided import METHODS
from lopsided.tuner import LopsidedLinear, layers_of
from tests import tiny
from tests.behave.cases import fill

METHODS_EACH = pytest.mark.parametrize("method", tiny.ADAPTERS)


def dense(layer: LopsidedLinear, x: torch.Tensor, name: str = "default") -> torch.Tensor:
    """One layer in float64 with its terms written out; its base weight must be the original one."""
    weight = layer.base_layer.weight.detach().double()
    weight = layer.kind.matrix(weight)
    for term in layer.terms(name, torch.device("cpu")):
        A, B = term.dense()
        weight = weight + layer.scaling[name] * (B.detach().double() @ A.detach().double())
    bias = layer.base_layer.bias
    return x.detach().double() @ weight.T + (0 if bias is None else bias.detach().double())


def one_layer(linear: nn.Module, method: str, r: int = 2, **options) -> tuple[PeftModel, LopsidedLinear]:
    """A model of one adapted layer; a chain's links stay beside the weight, so that `dense` can read it."""
    if METHODS[method].chain:
        options.setdefault("links", 4)
    model = lopsided.adapt(nn.Sequential(linear), method, r=r, target_modules=["0"], **options).eval()
    [layer] = layers_of(model).values()
    return model, layer


def step(model: PeftModel, seed: int = 0) -> None:
    """Fill the factor, and walk one link further."""
    fill(model, seed=seed)
    [layer] = layers_of(model).values()
    if layer.adapters["default"].method.chain:
        lopsided.advance_chain(model)
        fill(model, seed=seed + 1)
