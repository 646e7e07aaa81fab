"""Small models whose clients send random factors, as the tests of federation use them."""

from __future__ import annotations

import torch

import lopsided
from lopsided import METHODS
from lopsided.federated.averaging import ClientUpdate, average
from lopsided.federated.factors import advance_to, load_trained, trained_tensors
from lopsided.tuner import layers_of
from tests import tiny

# With one trained factor: left, right and Bernoulli sides, dense sketches and selectors.
SINGLE_FACTOR_CHAINS = [name for name in tiny.CHAINS if len(METHODS[name].adapter_side.letters) == 1]
R = 4


def adapted(method: str = "rac_b", *, seed: int = 0, base: int = 0, links: int | None = None):
    """A tiny BERT with the method, at link 0; its base and its head are those of the seed `base`."""
    chained = METHODS[method].chain is not None
    links = (links or 9) if chained else None
    return lopsided.adapt(tiny.bert(base), method, r=R, target_modules="all-linear", seed=seed, links=links)


def shapes_of(tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def random_like(tensors, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in tensors.items()}


def updates_for(model, clients: int = 3, seed: int = 0) -> list[ClientUpdate]:
    """Answers of that many clients, with unequal numbers of examples."""
    live = trained_tensors(model)
    return [
        ClientUpdate(client=f"c{m}", examples=7 * m + 3, tensors=random_like(live, seed=100 * seed + m))
        for m in range(clients)
    ]


def delta_of(model, tensors) -> dict[str, torch.Tensor]:
    """ΔW of every layer with these factors."""
    load_trained(model, tensors)
    return {name: layer.get_delta_weight("default") for name, layer in layers_of(model).items()}


def play_round(model, link: int, updates) -> dict[str, torch.Tensor]:
    """What the server does: stand at the link, average, load. Returns the averages."""
    advance_to(model, link)
    averaged = average(updates, shapes_of(trained_tensors(model)))
    load_trained(model, averaged)
    return averaged
