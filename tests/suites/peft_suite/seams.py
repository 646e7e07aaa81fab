"""What PEFT's test modules need around them to take our configurations: four seams, each with its reason.

1. `diffusers` is imported for one `isinstance`; a name stands in for it, since no test of images is run.
2. `init_weights=False` is how PEFT's tests ask for an adapter that is not the identity. Our trained factors start at
   zero and have no such option, so the configurations that are made here take it, and the factors are drawn after
   the adapter is in place. `start` moves a chain on to that link in the same way; its past links are drawn, too.
3. Tests that PEFT skips unless a configuration is LoRA's (Conv1D in half precision, mixed batches, weighted adapters)
   are run for ours: `LoraConfig` names our class in the modules of `GATES`, whose tests make none themselves.
4. `hub_online_once` would go online for names that it has not seen; every name is a folder here.
"""

from __future__ import annotations

import functools
import importlib.machinery
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

from lopsided import LopsidedConfig
from lopsided.tuner import layers_of
from lopsided.tuner.links import begin_next, draw_next
from lopsided.tuner.model import LopsidedModel

GATES = ("tests.testing_common", "tests.test_decoder_models", "tests.test_encoder_decoder_models")


def install() -> None:
    """Set the seams that must be there before PEFT's test modules are imported."""
    diffusers = ModuleType("diffusers")
    diffusers.__spec__ = importlib.machinery.ModuleSpec("diffusers", None)
    diffusers.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})
    sys.modules.setdefault("diffusers", diffusers)
    _take_init_weights()
    _draw_after_injection()


def _take_init_weights() -> None:
    original = LopsidedConfig.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, init_weights: bool = True, start: int = 0, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.init_weights, self.start = init_weights, start

    LopsidedConfig.__init__ = __init__


def _draw_after_injection() -> None:
    original = LopsidedModel.inject_adapter

    @functools.wraps(original)
    def inject_adapter(self: Any, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        original(self, model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        layers = list(layers_of(model, adapter_name).values())
        # Nothing can be advanced whose tensors are still to be loaded.
        waiting = any(layer.adapters[adapter_name].pending for layer in layers)
        for _ in range(config.start):
            if not waiting and not any(parameter.is_meta for parameter in _factors(model, adapter_name)):
                if not config.init_weights:
                    _draw(model, adapter_name)
                for layer in layers:
                    begin_next(layer, adapter_name, draw_next(layer, adapter_name))
                config.link = layers[0].adapters[adapter_name].link
        if not config.init_weights:
            _draw(model, adapter_name)

    LopsidedModel.inject_adapter = inject_adapter


def _factors(model: nn.Module, adapter_name: str) -> Iterator[nn.Parameter]:
    trained = re.compile(rf"\.lopsided_[ABC]\.{re.escape(adapter_name)}(\.weight)?$")
    return (parameter for name, parameter in model.named_parameters() if trained.search(name))


@torch.no_grad()
def _draw(model: nn.Module, adapter_name: str) -> None:
    """Draw the trained factors as wide as `nn.Linear` would draw them, from torch's own generator."""
    for factor in _factors(model, adapter_name):
        bound = factor.shape[1] ** -0.5
        factor.uniform_(-bound, bound)


@contextmanager
def _offline(model_id: str) -> Iterator[None]:
    yield


def adjust(module: ModuleType) -> None:
    """Set the seams inside one of PEFT's test modules, once it is imported."""
    if "hub_online_once" in vars(module):
        module.hub_online_once = _offline
    if module.__name__ in GATES:
        module.LoraConfig = LopsidedConfig
