"""What parts make of an original weight, one tile at a time, and the way back but for roundings.

Notation: W0 is the original weight, of shape (d_out, d_in), and part i stands for Δ_i and perhaps a gain g_i. Then

    x_0 = W0,    x_i = g_i ⊙ (x_{i-1} + Δ_i)    (g_i = 1 where a part has no gain),    W1 = x_n rounded to W0's dtype

and without gains W1 = W0 + ΣΔ_i. DoRA has a gain: g = m / ‖W0 + Δ‖, with a norm per output of the layer. The way back
divides by the gains and subtracts the Δ_i, in the reverse order. Sums, products and quotients of single numbers are
rounded the same way by every IEEE machine, so the way back comes out with the same bits everywhere, as Δ does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lopsided.tuner.weight.delta import Delta, Part, Region, tile_entries, undisturbed


class WeightChange:
    """What some parts make of a weight, over their region. Create it and call `tile` inside `undisturbed`.

    Args:
        wide: the dtype to compute in: float32, or float64 under a float64 weight.
    """

    def __init__(self, parts: Sequence[Part], device: torch.device, wide: torch.dtype) -> None:
        self.region, self._wide = Region.of(parts), wide
        self._steps: list[tuple[Delta, Tensor | None]] = []
        run: list[Part] = []
        for part in parts:
            run.append(part)
            # Parts between two gains are added in float64 and rounded once.
            if part.gain is not None:
                self._steps.append((Delta(run, device, self.region), part.gain.to(device, wide)))
                run = []
        if run:
            self._steps.append((Delta(run, device, self.region), None))

    def tile(self, rows: slice, columns: slice) -> TileChange:
        """Return what is done to one tile, in the coordinates of the region."""
        return TileChange(
            [
                (delta.tile(rows, columns).to(self._wide), None if gain is None else _tile_of(gain, rows, columns))
                for delta, gain in self._steps
            ]
        )


class TileChange:
    """What is done to one tile: each Δ_i, with the gain that follows it."""

    def __init__(self, steps: list[tuple[Tensor, Tensor | None]]) -> None:
        self._steps = steps

    def applied(self, W0: Tensor) -> Tensor:
        """Return x_n, from a tile in the wide dtype."""
        x = W0
        for delta, gain in self._steps:
            x = x + delta
            if gain is not None:
                x = x.mul_(gain)
        return x

    def taken_back(self, W1: Tensor) -> Tensor:
        """Return W0 but for roundings, from a tile in the wide dtype; overwrites the Δ_i, so it can be asked once."""
        x = W1
        for delta, gain in reversed(self._steps):
            if gain is not None:
                x = x / gain
            x = torch.sub(x, delta, out=delta)
        return x


def _tile_of(gain: Tensor, rows: slice, columns: slice) -> Tensor:
    everything = slice(None)
    return gain[rows if len(gain) > 1 else everything, columns if gain.shape[1] > 1 else everything]


def norms(weight: Tensor, parts: Sequence[Part], dim: int) -> Tensor:
    """Return ‖W + ΣΔ_i‖ along a dimension, in float64.

    Args:
        weight: W; parts: without gains.

    Shapes:
        weight: (d_out, d_in) -> (d_out, 1) for dim 1, (1, d_in) for dim 0.
    """
    shape = (len(weight), 1) if dim == 1 else (1, weight.shape[1])
    squares = torch.zeros(shape, dtype=torch.float64, device=weight.device)
    with undisturbed(weight.device):
        # A product of selectors can leave most of W alone; its norm still counts.
        region = Region(*weight.shape)
        delta = Delta(parts, weight.device, region)
        for rows, columns in region.tiles(tile_entries(weight.device)):
            tile = delta.tile(rows, columns).add_(region.read(weight, rows, columns))
            _tile_of(squares, rows, columns).add_(tile.square_().sum(dim, keepdim=True))
    return squares.sqrt_()
