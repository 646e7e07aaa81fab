"""A model's mode and `requires_grad` flags, changed for a block of code and restored after it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def model_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put every module of the model in one mode inside the context, and restore each module's mode afterwards.

    Each module's mode is kept, not the root's alone: a user may have left a part of the model in evaluation mode.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with model_mode(model, training=False):
        ...     print([module.training for module in model])
        [False, False]
        >>> [module.training for module in model]
        [True, False]
    """
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        # Module by module: `train` would descend from each of them.
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def gradients_of(model: nn.Module, parameters: Collection[Tensor]) -> Iterator[None]:
    """Let these parameters of the model, and no others, require gradients inside the context.

    Autograd is on inside it, whatever the caller's setting; afterwards every flag is as it was. An empty
    collection freezes the model, for gradients with respect to activations alone.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with gradients_of(layer, [layer.bias]):
        ...     print(layer.weight.requires_grad, layer.bias.requires_grad)
        False True
        >>> layer.weight.requires_grad
        True
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    # By identity: `==` compares the entries of tensors.
    wanted = {id(parameter) for parameter in parameters}
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(id(parameter) in wanted)
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
