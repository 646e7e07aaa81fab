"""Federated rounds on quadratics, many runs at once: what a shared sketch, local steps and unequal ranks do.

Notation: S runs of M clients. Client m has f_m(W) = ½·tr((W - W_m)·H_m·(W - W_m)ᵀ) with W of (d_out, d_in), f is their
mean, and W* its minimum. A round draws orthonormal A of (r, d_in); each client takes E steps of size 1/L from B = 0,

    B ← B - (W + B·A - W_m)·H_m·Aᵀ/L,

on the rows of A that it trains, the server averages B, and W ← W + B·A. L = 1 is the largest eigenvalue of every H_m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from lopsided.federated.averaging import ClientUpdate, average
from lopsided.lab.projected_descent import draw_sketches
from lopsided.method.dense import Orthonormal

# A factor's live name, by which the average knows that columns of B are rows of the sketch.
NAME = "layer.lopsided_B.default.weight"
Fill = Literal["who trained it", "zeros"]


@dataclass(frozen=True, kw_only=True)
class Quadratics:
    """The clients' losses in S runs.

    Shapes:
        H: (S, M, d_in, d_in); optima: (S, M, d_out, d_in)
    """

    H: np.ndarray
    optima: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """W*: (S, d_out, d_in)"""
        weighted = (self.optima @ self.H).mean(axis=1)
        return np.linalg.solve(self.H.mean(axis=1), weighted.transpose(0, 2, 1)).transpose(0, 2, 1)

    def gap(self, W: np.ndarray) -> np.ndarray:
        """Return f(W) - f(W*): (S, d_out, d_in) -> (S,)"""
        error = W - self.best
        return 0.5 * ((error @ self.H.mean(axis=1)) * error).sum(axis=(1, 2))


@dataclass(frozen=True, kw_only=True)
class RoundSetting:
    """How rounds go.

    Args:
        r: rank. epochs: local steps E of a round.
        shared: whether all clients train next to the server's sketch, or each next to one of its own.
        ranks: of each client; None gives all of them r.
        fill: what a row of the sketch is averaged over: who trained it, or everybody with zeros for who did not.
        chain: whether each round merges and draws a new sketch, or A and B stay.
    """

    r: int
    epochs: int
    shared: bool = True
    ranks: tuple[int, ...] | None = None
    fill: Fill = "who trained it"
    chain: bool = True


def draw_quadratics(
    *, seeds: int, clients: int, d_out: int, d_in: int, condition: float, skew: float, own_curvature: bool = False
) -> Quadratics:
    """Return random problems: eigenvalues from 1/condition to 1, in a random basis, and optima W_0 + skew·Z_m.

    Args:
        own_curvature: whether each client's basis is its own, or all have one.
    """
    draw = np.random.RandomState(7)
    bases = np.linalg.qr(draw.standard_normal((seeds, clients if own_curvature else 1, d_in, d_in)))[0]
    H = (bases * np.geomspace(1 / condition, 1, d_in)) @ bases.transpose(0, 1, 3, 2)
    common = draw.standard_normal((seeds, 1, d_out, d_in))
    optima = common + skew * draw.standard_normal((seeds, clients, d_out, d_in))
    return Quadratics(H=np.broadcast_to(H, (seeds, clients, d_in, d_in)), optima=optima)


def local_steps(problem: Quadratics, W: np.ndarray, A: np.ndarray, B: np.ndarray, setting: RoundSetting) -> np.ndarray:
    """Return every client's B after its local steps.

    Shapes:
        W: (S, d_out, d_in); A: (S, M, r, d_in); B: (S, d_out, r), where they start -> (S, M, d_out, r)
    """
    At = A.transpose(0, 1, 3, 2)
    # W stands still within a round: the gradient at B = 0 and its change with B are computed once.
    first, change = (W[:, None] - problem.optima) @ problem.H @ At, A @ problem.H @ At
    mask = np.ones((A.shape[1], 1, setting.r))
    for m, rank in enumerate(setting.ranks or ()):
        mask[m, :, rank:] = 0.0
    own = np.repeat(B[:, None], A.shape[1], axis=1)
    for _ in range(setting.epochs):
        own = own - (first + own @ change) * mask
    return own


def averaged(own: np.ndarray, setting: RoundSetting) -> np.ndarray:
    """Return the clients' average as `lopsided.federated` computes it, all runs in one tensor.

    Shapes:
        own: (S, M, d_out, r) -> (S, d_out, r)
    """
    seeds, clients, d_out, r = own.shape
    updates = []
    for m in range(clients):
        rank = r if setting.ranks is None or setting.fill == "zeros" else setting.ranks[m]
        kept = own[:, m, :, :rank]
        if setting.fill == "zeros" and setting.ranks is not None:
            kept = kept * (np.arange(r) < setting.ranks[m])
        tensor = torch.from_numpy(np.ascontiguousarray(kept)).reshape(seeds * d_out, rank)
        updates.append(ClientUpdate(client=f"{m:03d}", examples=1, tensors={NAME: tensor}, ranks={NAME: rank}))
    mean = average(updates, {NAME: (seeds * d_out, r)})[NAME]
    return mean.numpy().astype(np.float64).reshape(seeds, d_out, r)


def sketches_of(
    setting: RoundSetting, *, seeds: int, clients: int, d: int, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the server's sketch of a round and the clients': (S, r, d) and (S, M, r, d)"""
    link = number if setting.chain else 0
    server = draw_sketches(Orthonormal(), setting.r, d, seeds=seeds, link=link)
    if setting.shared:
        return server, np.repeat(server[:, None], clients, axis=1)
    # Seeds that nothing else uses: the server's own are 0 to S - 1.
    everybody = draw_sketches(Orthonormal(), setting.r, d, seeds=seeds * (clients + 1), link=link)
    return server, everybody[seeds:].reshape(clients, seeds, setting.r, d).transpose(1, 0, 2, 3)


def run_rounds(
    problem: Quadratics,
    setting: RoundSetting,
    rounds: int,
    see: Callable[[int, np.ndarray, np.ndarray], None] = lambda number, W, B: None,
) -> np.ndarray:
    """Return the gap at the start, W = 0, and after each round.

    Args:
        see: called after each round with its number from 1, the weights that it leaves, and the averaged B.

    Shapes:
        -> (rounds + 1, S)
    """
    seeds, clients, d_out, d = problem.optima.shape
    W, B = np.zeros((seeds, d_out, d)), np.zeros((seeds, d_out, setting.r))
    gaps = [problem.gap(W)]
    for number in range(rounds):
        server, own = sketches_of(setting, seeds=seeds, clients=clients, d=d, number=number)
        B = averaged(local_steps(problem, W, own, B, setting), setting)
        now = W + B @ server
        if setting.chain:
            W, B_next = now, np.zeros_like(B)
        else:
            B_next = B
        gaps.append(problem.gap(now))
        see(number + 1, now, B)
        B = B_next
    return np.array(gaps)


def fedavg(problem: Quadratics, epochs: int, rounds: int) -> np.ndarray:
    """Return the gaps of full fine-tuning with averaged weights: a sketch of all d_in rows, the identity.

    Shapes:
        -> (rounds + 1, S)
    """
    W = np.zeros_like(problem.best)
    gaps = [problem.gap(W)]
    for _ in range(rounds):
        own = np.repeat(W[:, None], problem.optima.shape[1], axis=1)
        for _ in range(epochs):
            own = own - (own - problem.optima) @ problem.H
        W = own.mean(axis=1)
        gaps.append(problem.gap(W))
    return np.array(gaps)


def effective_rank(B: np.ndarray) -> np.ndarray:
    """Return exp of the entropy of the squared singular values' shares: from 1, for one direction, to r.

    Shapes:
        B: (S, d_out, r) -> (S,)

    Example:
        >>> effective_rank(np.eye(4)[None]).round(6).tolist()
        [4.0]
    """
    squares = np.linalg.svd(B, compute_uv=False) ** 2
    shares = squares / squares.sum(axis=1, keepdims=True)
    # 0·log 0 is 0.
    return np.exp(-(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1))
