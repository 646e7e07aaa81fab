"""Writing into a base weight, and the way back to its very bits.

Notation: W0 is the original weight and Δ what is added to it, in float32 (float64 under a float64 weight). The weight
then holds W1 = round(W0 + Δ), rounded once to its dtype. Where a part has a gain g, read g ⊙ (W0 + Δ) for W0 + Δ, and
W1 / g - Δ for W1 - Δ (see `weight_change`).

Keeping a copy of W0 would double the memory of the model. W1 - Δ is rarely off from W0 by more than its last bits, and
mostly not at all, and Δ can be computed again bit for bit (see `delta`). So per tile only the corrections are kept,
where round(W1 - Δ) is not W0 (see `undo_records`), or a copy of W0 where that is smaller than the list and the factors
together. What is kept stays on the CPU.

    write      W0 -> W1, tile by tile: read W0, compute Δ, record how to come back, and only then write W1
    restore    W1 -> W0, last tile first: compute Δ, subtract, correct, compare with the digest of W0
    original   the same into a copy, while the weight goes on holding W1

The invariant, which also holds after an interrupt between any two statements: there is a record for every tile that
holds W1, and a tile without one holds W0. Two digests per tile say whether the weight is still W1, before anything is
undone, and whether what came back is W0, so that a wrong undo is an error and never a wrong model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.tuner.weight.delta import Delta, Part, Region, tile_entries, undisturbed
from lopsided.tuner.weight.undo_records import HEAD, INTEGERS, OBJECT, corrected, digest, digests, is_copy, record
from lopsided.tuner.weight.weight_change import WeightChange


class Undo:
    """The way back to one weight's original, while something is written over it.

    Weights are given as (d_out, d_in) views of `weight.data`: a forward that ran before, and its backward still to
    come, see the same values again once the caller has switched back, and autograd's version counter must not refuse
    them.
    """

    def __init__(self) -> None:
        self._module = ""
        self._region: Region | None = None
        self._entries = 0
        # Empty where all records are copies of W0: nothing is subtracted then, and the factors need not be kept.
        self._parts: tuple[Part, ...] = ()
        # One per written tile, in the order of the tiles.
        self._records: list[bytes] = []

    @property
    def written(self) -> bool:
        """Whether the weight holds anything but W0."""
        return bool(self._records)

    @property
    def nbytes(self) -> int:
        """How many bytes of CPU memory the way back takes now."""
        return self.nbytes_without_parts + sum(part.copied for part in self._parts)

    @property
    def nbytes_without_parts(self) -> int:
        """The same without the copies that the parts made, for whoever keeps these anyway."""
        indices = 0 if self._region is None else self._region.nbytes
        return indices + sum(len(r) + OBJECT for r in self._records)

    def write(self, weight: Tensor, parts: Sequence[Part], module: str) -> None:
        """Set weight := W0 + Δ, in float32 or wider, rounded once to the weight's dtype, times the parts' gains.

        Only the region that the parts can change is read, written and listed. The terms are kept by reference: nobody
        may change their tensors afterwards.

        Args:
            parts: Δ is their sum.
            module: the weight's name, for errors.

        Shapes:
            weight: (d_out, d_in).

        Raises:
            LopsidedError: if the weight's dtype can't be written to; from `restore`, if something is written already.
        """
        if weight.dtype not in INTEGERS:
            raise LopsidedError(
                f"can't merge into a weight of dtype {weight.dtype}; expected a floating-point weight; "
                "leave the adapter unmerged, or export it with to_lora"
            )
        # From W0 itself and never from an earlier W1, so that rounding does not add up over the links of a chain.
        self.restore(weight)
        region, self._entries = Region.of(parts), tile_entries(weight.device)
        self._module, self._parts, self._region = module, tuple(parts), region
        wide = torch.promote_types(weight.dtype, torch.float32)
        copy_nbytes = region.height * region.width * weight.dtype.itemsize
        with undisturbed(weight.device):
            changes = WeightChange(parts, weight.device, wide)
            for tile in region.tiles(self._entries):
                W0, change = region.read(weight, *tile), changes.tile(*tile)
                W1 = change.applied(W0.to(wide)).to(weight.dtype)
                # Recorded before it is written: whenever this is interrupted, `restore` knows every written tile. One
                # that was recorded and not written is recognized by the digest of W0.
                guess = change.taken_back(W1.to(wide)).to(weight.dtype)
                self._records.append(record(W0, W1, guess))
                region.write(weight, *tile, W1)
                # Not in memory next to the next tile's.
                del W0, change, W1, guess
            # Many corrections cost more than W0 itself, most often under 16-bit weights: then copies replace them.
            if self.nbytes > region.nbytes + copy_nbytes + len(self._records) * (HEAD + OBJECT):
                for i, tile, W0 in self._originals(weight):
                    self._records[i] = record(W0, region.read(weight, *tile), None)
        if all(map(is_copy, self._records)):
            self._parts = ()

    def restore(self, weight: Tensor) -> None:
        """Give W0 back, bit for bit, and forget it.

        Raises:
            LopsidedError: if the weight is not what `write` left, before anything is changed.
        """
        if self._region is None:
            return
        with undisturbed(weight.device):
            # The last tile first: its record is the last one of the list, and is dropped once the tile holds W0.
            for i, tile, W0 in self._originals(weight):
                self._region.write(weight, *tile, W0)
                del self._records[i]
        self._parts, self._region = (), None

    def original(self, weight: Tensor) -> Tensor:
        """Return a copy of W0 on the CPU, whatever the weight holds now.

        Raises:
            LopsidedError: as `restore` does.
        """
        out = weight.to("cpu", copy=True)
        if self._region is not None:
            with undisturbed(weight.device):
                for _, tile, W0 in self._originals(weight):
                    self._region.write(out, *tile, W0.cpu())
        return out

    def loss(self, weight: Tensor, parts: Sequence[Part]) -> float:
        """Return ‖(W1 - W0) - Δ‖ / ‖Δ‖: what rounding to the weight's dtype took from the parts that are written.

        Args:
            parts: those that were written, without gains; `write` may have let go of them.
        """
        assert self._region is not None
        lost, whole = 0.0, 0.0
        with undisturbed(weight.device):
            delta = Delta(parts, weight.device)
            for _, tile, W0 in self._originals(weight):
                change, W1 = delta.tile(*tile), self._region.read(weight, *tile)
                lost += float((W1.double() - W0.double() - change).square().sum())
                whole += float(change.square().sum())
        return (lost / whole) ** 0.5 if whole else 0.0

    def _originals(self, weight: Tensor) -> Iterator[tuple[int, tuple[slice, slice], Tensor]]:
        """Yield the number, the place and the W0 of each written tile, the last one first."""
        assert self._region is not None
        region = self._region
        tiles = list(zip(region.tiles(self._entries), self._records))
        # All tiles are looked at before the first one is given back: an undo is whole or does not begin. A tile that
        # holds W0 already is one that an interrupted call did not come to.
        current = [digest(region.read(weight, *tile)) for tile, _ in tiles]
        if any(now not in digests(kept) for now, (_, kept) in zip(current, tiles)):
            raise LopsidedError(
                f"{self._module}: the base weight was changed while adapters were merged into it, so the original "
                "can't be given back; expected the weight as the merge left it; load the base model again"
            )
        wide = torch.promote_types(weight.dtype, torch.float32)
        changes = WeightChange(self._parts, weight.device, wide) if self._parts else None
        for i, (tile, kept) in reversed(list(enumerate(tiles))):
            W0, (before, _) = region.read(weight, *tile), digests(kept)
            if current[i] != before:
                # W1 - Δ, rounded as `write` rounded it when it recorded the corrections. Copies need no Δ.
                if changes is not None:
                    W0 = changes.tile(*tile).taken_back(W0.to(wide)).to(weight.dtype)
                W0 = corrected(W0, kept)
                if digest(W0) != before:
                    raise LopsidedError(
                        f"{self._module}: what came back is not the original base weight; expected the factors as "
                        "they were merged, and IEEE arithmetic; load the base model again"
                    )
            yield i, tile, W0


def report_rounding(module: str, dtype: torch.dtype, lost: float) -> None:
    """Warn of what rounding to a 16-bit base took from the merged links, as a share of their norm."""
    warnings.warn(
        f"{module}: rounding to {dtype} lost {100 * lost:.1f} % of the merged links, as a share of their "
        "norm; leave merge_links unset to keep them in float32 next to the weight",
        LopsidedWarning,
        stacklevel=3,
    )
