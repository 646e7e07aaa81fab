"""The end of a link and the start of the next one, in a model and its optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lopsided.errors import LopsidedError
from lopsided.optim.frozen_rates import freeze_rates
from lopsided.optim.reset import reset_state
from lopsided.tuner import LopsidedLinear, configs_of, layers_with, single_active
from lopsided.tuner.links import begin_next, draw_next
from lopsided.tuner.peft_seams import install_late_seams
from lopsided.tuner.weight.delta import undisturbed


def advance_chain(model: nn.Module, optimizer: Any = None, adapter_name: str | None = None) -> int:
    """End the link in training and start the next one: the function stays, the sketch and the state are new.

    In every layer W ← W + s·B·A (or the term is kept next to a 16-bit W), the next sketch is drawn, the trained
    factor is set to zero in place, and so is its optimizer state. The schedule of the learning rate goes on. A chain
    with other switches does what they say (see `Chain`): the function jumps if `Chain.jumps`, and with `freeze_rate`
    the optimizer steps from now on at the rates that its groups have at the first advance.

    Args:
        model: from `lopsided.adapt`, `peft.get_peft_model`, `inject_adapter_in_model`, or with `model.add_adapter`.
        optimizer: the one in use, or accelerate's wrapper of it; None when nothing is being optimized.
        adapter_name: which adapter; None takes the active one.

    Returns:
        The number of the new link, from 1.

    Raises:
        LopsidedError: past the last link, for a method without a chain, for a factor with NaN or Inf, or for
            an optimizer that does not hold the factors. Nothing has changed then.

    Example:
        >>> import torch, lopsided
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> model = lopsided.adapt(net, "c3la", r=2, links=4, target_modules="all-linear")
        >>> lopsided.advance_chain(model)
        1
    """
    name = adapter_name or single_active(model)
    layers = layers_with(model, name)
    adapter = next(iter(layers.values())).adapters[name]
    chain = adapter.method.chain
    if chain is None:
        raise LopsidedError(f"method {adapter.method.name!r} has no chain to advance; choose a chained method")
    if adapter.links is not None and adapter.link + 1 >= adapter.links:
        raise LopsidedError(
            f"the chain of {adapter.links} links is on its last one (link {adapter.link}); adapt with more links"
        )
    # Inside one context for all layers: going to one thread and back can take a millisecond each time.
    with undisturbed(torch.device("cpu")):
        # Whatever can be refused is refused here, before the first layer changes.
        sketches = {module: draw_next(layer, name) for module, layer in layers.items()}
        factors = trained_factors(layers.values(), name)
        if optimizer is not None:
            reset_state(optimizer, factors, prune=chain.prune)
            if chain.freeze_rate:
                freeze_rates(optimizer)
        for factor in factors if chain.restarts else ():
            # A gradient left from the ended link belongs to its sketch.
            if factor.grad is not None:
                factor.grad.zero_()
        # Libraries of averages may have been imported since.
        install_late_seams()
        for module, layer in layers.items():
            begin_next(layer, name, sketches[module])
    for config in configs_of(model, name):
        config.link = adapter.link
    return adapter.link


def trained_factors(layers: Iterable[LopsidedLinear], name: str) -> list[Tensor]:
    """Return the factors of one adapter that train, of all layers."""
    return [factor for layer in layers for factor in layer.trained(name).values() if factor.requires_grad]
