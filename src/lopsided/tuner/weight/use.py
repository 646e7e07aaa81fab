"""How a layer's adapters are in use, and what a base weight holds for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lopsided.tuner.adapter import CPU, Adapter
from lopsided.tuner.weight.delta import Part


@dataclass(frozen=True, kw_only=True)
class Share:
    """What of one adapter is in the weight.

    Args:
        revision: names the content of its past links. Adapters that share their past have one revision, so that
            switching between them writes nothing.
        scaling: s.
        merged: its name if the link in training is in the weight, too; None where only the past links are.
    """

    revision: int
    scaling: float
    merged: str | None


Held = tuple[Share, ...]


@dataclass(frozen=True, kw_only=True)
class Use:
    """How a layer's adapters are in use.

    Args:
        adapters: all of them, by name.
        scaling: s of each.
        active, merged: names; as PEFT has it, a layer with merged adapters computes those and nothing else.
        enabled: False where PEFT has disabled all adapters.
        factors: gives an adapter's trained factors by letter, and raises if they can't be computed with.
    """

    adapters: Mapping[str, Adapter]
    scaling: Mapping[str, float]
    active: Sequence[str]
    merged: Sequence[str]
    enabled: bool
    factors: Callable[[str], Mapping[str, Tensor]]

    def shares(self, takes_links: Callable[[Adapter], bool]) -> Held:
        """Return what a base weight holds in this use.

        Args:
            takes_links: whether an adapter's past links belong into it.
        """
        if not self.enabled:
            return ()
        shares = []
        for name, adapter in self.adapters.items():
            merged = name in self.merged
            has_past = not self.merged and name in self.active and bool(adapter.past)
            if merged or (has_past and takes_links(adapter)):
                share = Share(revision=adapter.revision, scaling=self.scaling[name], merged=name if merged else None)
                shares.append(share)
        return tuple(shares)

    def part(self, share: Share) -> Part:
        """Return what a share stands for, in tensors that nobody changes."""
        if share.merged is None:
            adapter = next(a for a in self.adapters.values() if a.revision == share.revision)
            return Part(tuple(adapter.past_terms()), share.scaling)
        adapter = self.adapters[share.merged]
        # Training may go on in the factors themselves, and the undo needs them as they were merged.
        copies = {
            letter: factor.detach().to(CPU, torch.float32, copy=True)
            for letter, factor in self.factors(share.merged).items()
        }
        current = adapter.term(adapter.side, copies, adapter.sketches[-1].factor)
        copied = sum(factor.nbytes for factor in copies.values())
        return Part((*adapter.past_terms(), current), share.scaling, copied)
