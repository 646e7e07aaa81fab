"""The average with Gaussian noise, of bounded sensitivity: see `lopsided.federated.privacy` for the notation.

The noise comes from the operating system and has no seed. Whoever knows a seed can take the noise off again, and a
run's seed is known to all of its clients.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.federated.averaging import ClientUpdate, Shapes
from lopsided.federated.clipping import clip_scale, update_of
from lopsided.federated.privacy import PrivacyTerms
from lopsided.federated.refusals import Answers

# A shape -> standard normal numbers in float64.
Normal = Callable[[tuple[int, ...]], Tensor]


def system_normal(shape: tuple[int, ...]) -> Tensor:
    """Return standard normal numbers made of the operating system's random bits, which nothing repeats.

    Shapes:
        as `shape` says, float64.
    """
    bits = np.frombuffer(os.urandom(8 * math.prod(shape)), dtype=np.uint64)
    # The middles of 2^52 equal parts of (0, 1): neither 0 nor 1, where the quantile is infinite.
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return torch.from_numpy(ndtri(uniform)).reshape(shape)


def private_average(
    updates: Sequence[ClientUpdate],
    shapes: Shapes,
    start: Mapping[str, Tensor],
    terms: PrivacyTerms,
    normal: Normal = system_normal,
) -> dict[str, Tensor]:
    """Return start + (Σ clipped updates + noise) / clients, over those who answered; the others count as zero.

    Updates have equal weights: weights by examples would give away how many rows a client has. They are clipped here
    once more, so that the bound does not depend on what a client has done.

    Args:
        updates: one per client, whole and finite.
        shapes: of every tensor.
        start: what the round started from.
        terms: the norm, the noise, and the number of clients.
        normal: draws the noise; another one is for tests alone.

    Shapes:
        as `shapes` says, float32.

    Raises:
        LopsidedError: for more updates than clients, or one that is cut to a lower rank.
    """
    if len(updates) > terms.clients:
        raise LopsidedError(
            f"{len(updates)} updates with noise for {terms.clients} clients; expected at most as many; leave some out"
        )
    total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    for update in sorted(updates, key=lambda each: each.client):
        if update.ranks:
            raise LopsidedError(
                f"client {update.client!r} sends the first rows of a sketch, and noise is for whole factors; leave out "
                "its rank, or the noise"
            )
        difference = update_of(update.tensors, start)
        scale = clip_scale(difference, terms.clipping_norm)
        for name, tensor in difference.items():
            total[name] += scale * tensor
    return noised(total, start, terms, normal)


def noised(
    total: Mapping[str, Tensor], start: Mapping[str, Tensor], terms: PrivacyTerms, normal: Normal = system_normal
) -> dict[str, Tensor]:
    """Return start + (sum of clipped updates + noise) / clients.

    Args:
        total: the sum, in float64.
        start, terms, normal: as for `private_average`.
    """
    std = terms.noise_multiplier * terms.clipping_norm
    means = {name: (each + std * normal(tuple(each.shape))) / terms.clients for name, each in total.items()}
    return {name: (start[name].to(torch.float64) + mean).to(torch.float32) for name, mean in means.items()}


def admitted(answers: Answers, clients: int) -> Answers:
    """Return the answers that noise is for: whole ones, of no more than `clients` clients, the first ones by name."""
    whole = [update for update in answers.taken if not update.ranks]
    kept = sorted(update.client for update in whole)[:clients]
    refused = dict(answers.refused)
    for update in answers.taken:
        if update.ranks:
            refused[update.client] = "it has a rank of its own, and noise is for whole factors"
        elif update.client not in kept:
            refused[update.client] = f"the noise is for {clients} clients, and others come first by name"
    return dataclasses.replace(
        answers, taken=tuple(update for update in whole if update.client in kept), refused=refused
    )
