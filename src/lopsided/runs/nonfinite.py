"""A number that is NaN or infinite stops a run, and the error says where it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.finite import all_finite

ADVICE = "expected a finite one; the last good checkpoint is kept; lower the learning rate, and choose another --out"


class NonFinite(LopsidedError):
    """A loss or a gradient is NaN or infinite; nothing was updated with it."""


def check_loss(loss: Tensor, step: int, model: nn.Module, forward: Callable[[], Any]) -> None:
    """Raise if the training loss of a step is not finite, naming the first module whose output is not.

    Args:
        forward: computes the loss once more, on the same batch.
    """
    if not all_finite(loss):
        raise NonFinite(f"the loss is {loss.item()} at step {step}, {_origin(model, forward)}; {ADVICE}")


def check_gradients(model: nn.Module, step: int) -> None:
    """Raise if a gradient is not finite, before it is clipped: clipping by a norm that is NaN ruins all of them."""
    broken = [n for n, p in model.named_parameters() if p.grad is not None and not all_finite(p.grad)]
    if broken:
        # Gradients flow from the last module to the first, and take NaN with them.
        raise NonFinite(f"the gradient of {broken[-1]} is not finite at step {step}; {ADVICE}")


@torch.no_grad()
def _origin(model: nn.Module, forward: Callable[[], Any]) -> str:
    """Say which module's output is the first that is not finite."""
    broken: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not all_finite(*_tensors(output)):
                broken.append(name)

        return look

    with ExitStack() as hooks, torch.random.fork_rng():
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(watch(name)).remove)
        forward()
    if not broken:
        return "while all outputs are finite"
    return f"which first shows in the output of {broken[0].removesuffix('.base_layer')}"


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield every floating-point tensor of a module's output."""
    if isinstance(output, Tensor) and output.is_floating_point():
        yield output
    elif isinstance(output, dict):
        yield from _tensors(tuple(output.values()))
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from _tensors(part)
