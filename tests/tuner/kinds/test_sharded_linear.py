"""Layers that are linear in name alone, as those of model-parallel libraries are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lopsided
from lopsided import LopsidedError
from lopsided.tuner import layers_of


class ColumnParallelLinear(nn.Module):
    """A layer as Megatron has it: a part of the rows, the others in other processes, and a bias that it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 4))

    def forward(self, x):
        """Return the part of the product, and the bias."""
        return nn.functional.linear(x, self.weight), None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": r"(qkv|other)"}, "qkv is a ColumnParallelLinear, which can't be adapted"),
        ({"target_modules": ["qkv", "other"]}, r"qkv\.weight is one process's part of a matrix, in a Column"),
        ({"target_parameters": ["qkv.weight"]}, r"qkv\.weight is one process's part of a matrix, in a Column"),
    ],
)
def test_a_layer_of_megatron_is_refused_by_name(options, words):
    model = nn.ModuleDict({"qkv": ColumnParallelLinear(), "other": nn.Linear(4, 4)})
    with pytest.raises(LopsidedError, match=words) as error:
        lopsided.adapt(model, "cla", r=2, **options)
    assert "\n" not in str(error.value)
    assert not layers_of(model)
