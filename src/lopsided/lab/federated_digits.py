"""Federated rounds on scikit-learn's digits, by the library's own parts: adapters, chains and averages.

A network 64-64-32-5 learns the digits 0 to 4 with all of its weights; clients then share the rows of 5 to 9, and adapt
it in rounds. Every client trains from where the server stands, with a fresh AdamW, and the server averages.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F

from lopsided.adapt import adapt
from lopsided.federated.averaging import ClientUpdate, average
from lopsided.federated.factors import advance_to, load_trained, row_axis, trained_tensors
from lopsided.federated.first_rows import cut_rows, first_rows_train
from lopsided.federated.partitions import dirichlet
from lopsided.lab.digit_halves import Digits
from lopsided.tuner import layers_of

WIDTHS = (64, 64, 32, 5)
BATCH = 32
PRETRAIN_EPOCHS, PRETRAIN_RATE = 30, 2e-3


@dataclass(frozen=True, kw_only=True)
class Federation:
    """How clients train together.

    Args:
        method: a registered one. r: rank. lr: of AdamW.
        epochs: local ones of a round.
        clients: how many. alpha: of the Dirichlet distribution by which they share the classes.
        shared: whether all have the server's sketch, or each one of its own.
        low_rank: of every second client; None gives all of them r.
        fill: what a row of the sketch is averaged over, where ranks differ.
    """

    method: str = "rac_b"
    r: int = 4
    lr: float = 5e-3
    epochs: int = 2
    rounds: int = 20
    clients: int = 5
    alpha: float = 100.0
    shared: bool = True
    low_rank: int | None = None
    fill: Literal["who trained it", "zeros"] = "who trained it"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a federation comes to.

    Args:
        accuracy: on the test rows in percent, at the start and after each round.
        error: the largest distance over rounds and layers of ΔW by averaged factors from the average of the clients'
            ΔW, as a share of the latter's norm.
    """

    accuracy: list[float]
    error: float


def pretrained(digits: Digits, seed: int) -> nn.Sequential:
    """Return a network that has learned the first half of the digits."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for d_in, d_out in itertools.pairwise(WIDTHS):
            layers += [nn.Linear(d_in, d_out), nn.ReLU()]
        net = nn.Sequential(*layers[:-1])
    rows = digits.train[0][seed]
    train(net, digits.x[rows], digits.y[rows], epochs=PRETRAIN_EPOCHS, lr=PRETRAIN_RATE, seed=seed)
    return net


def train(net: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float, seed: int) -> None:
    """Train what requires gradients, in place, with random reshuffling."""
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=lr)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=draw).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()


def federate(net: nn.Sequential, digits: Digits, how: Federation, *, seed: int) -> Curve:
    """Return the server's accuracy over rounds, and how far its averages are from those of ΔW."""
    rows, test = digits.train[1][seed], digits.test[1][seed]
    parts = dirichlet(digits.y[rows].tolist(), how.clients, alpha=how.alpha, seed=seed, allow_missing=True)
    server = _adapted(net, how, seed)
    scores, errors = [accuracy(server, digits, test)], [0.0]
    for number in range(how.rounds):
        advance_to(server, number)
        start, before = trained_tensors(server), _deltas(server)
        updates, changes = [], []
        for client, part in enumerate(parts):
            # Every client begins where the server stands, with the shared sketch or one of its own.
            model = server if how.shared else _with_own_sketch(server, how, (seed, number, client))
            load_trained(server, start)
            origin = before if how.shared else _deltas(model)
            order = (1000 * seed + number) * how.clients + client
            updates.append(_client_round(model, digits, rows[part], how, client, order))
            changes.append(_differences(_deltas(model), origin))
        taken = [_filled(update, start, how) for update in updates]
        load_trained(server, average(taken, {name: tuple(tensor.shape) for name, tensor in start.items()}))
        errors.append(_error(_differences(_deltas(server), before), changes, updates))
        scores.append(accuracy(server, digits, test))
    return Curve(accuracy=scores, error=max(errors))


@torch.no_grad()
def accuracy(net: nn.Module, digits: Digits, rows: Tensor) -> float:
    """Return the share of right answers in percent."""
    return 100.0 * float((net(digits.x[rows]).argmax(dim=1) == digits.y[rows]).double().mean())


def _adapted(net: nn.Module, how: Federation, seed: int) -> PeftModel:
    return adapt(copy.deepcopy(net), how.method, r=how.r, target_modules="all-linear", links=how.rounds, seed=seed)


def _with_own_sketch(server: PeftModel, how: Federation, place: tuple[int, int, int]) -> PeftModel:
    """Return the server's function with an adapter on it whose sketch is that of one client and round alone."""
    seed, number, client = place
    # Never the server's: its seeds are small.
    return _adapted(copy.deepcopy(server).merge_and_unload(), how, 10**6 * (seed + 1) + 1000 * number + client)


def _client_round(
    model: PeftModel, digits: Digits, rows: Tensor, how: Federation, client: int, seed: int
) -> ClientUpdate:
    rank = how.low_rank if how.low_rank is not None and client % 2 else how.r
    with first_rows_train(model, rank) as ranks:
        train(model, digits.x[rows], digits.y[rows], epochs=how.epochs, lr=how.lr, seed=seed * how.clients + client)
    return ClientUpdate(
        client=f"{client:03d}", examples=len(rows), tensors=cut_rows(trained_tensors(model), ranks), ranks=ranks
    )


def _filled(update: ClientUpdate, start: dict[str, Tensor], how: Federation) -> ClientUpdate:
    """Return an update as the average takes it: with zeros in the rows that were not trained, if so they count."""
    if how.fill != "zeros" or not update.ranks:
        return update
    whole = {}
    for name, tensor in update.tensors.items():
        whole[name] = tensor
        if name in update.ranks:
            whole[name] = torch.zeros_like(start[name])
            whole[name].narrow(row_axis(name) or 0, 0, update.ranks[name]).copy_(tensor)
    return ClientUpdate(client=update.client, examples=update.examples, tensors=whole)


def _deltas(model: PeftModel) -> list[Tensor]:
    return [layer.get_delta_weight("default").double() for layer in layers_of(model).values()]


def _differences(after: list[Tensor], before: list[Tensor]) -> list[Tensor]:
    return [now - then for now, then in zip(after, before)]


def _error(averaged: list[Tensor], changes: list[list[Tensor]], updates: list[ClientUpdate]) -> float:
    """Return the largest relative distance over layers between the server's change and the clients' average one."""
    total = sum(update.examples for update in updates)
    worst = 0.0
    for layer, own in enumerate(averaged):
        mean = sum(update.examples / total * change[layer] for update, change in zip(updates, changes))
        assert isinstance(mean, Tensor)
        worst = max(worst, float((own - mean).norm() / mean.norm()))
    return worst
