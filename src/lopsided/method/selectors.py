"""Sketches that select columns: neighbouring ones, at a known or a random place, or random ones.

`sketch.py` holds the notation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from lopsided.method.sketch import Matrix, Selector, check_choice, generator


@dataclass(frozen=True)
class Window(Selector):
    """Identity on a window of `r` neighbouring columns, wrapping around at `d`.

    Link `k` of a cyclic chain reads window `k`, so `ceil(d / r)` links cover every column.

    Args:
        order: "fixed" stays on window 0; "cyclic" walks left to right; "shuffled" walks a permutation of
            the windows, drawn from `seed`, and a new one after each full sweep.

    Shapes:
        sample(r, d) -> (r, d), one-hot rows: S @ S.T == I exactly.

    Raises:
        LopsidedError: if `r > d`.

    Source:
        cLA, c3LA and random-c3LA: Cadenhead et al. 2026, arXiv:2606.13767.

    Example:
        >>> Window("cyclic").indices(2, 5, seed=0, link=1)
        array([2, 3])
        >>> Window("cyclic").indices(2, 5, seed=0, link=2)
        array([4, 0])
    """

    random: ClassVar[bool] = True
    order: Literal["fixed", "cyclic", "shuffled"] = "fixed"

    def __post_init__(self) -> None:
        check_choice("Window.order", self.order, ("fixed", "cyclic", "shuffled"))

    def choose(self, r: int, d: int, *, seed: int, link: int) -> Matrix:
        """Return the r columns of the link's window."""
        count = -(-d // r)
        if self.order == "fixed":
            window = 0
        elif self.order == "cyclic":
            window = link % count
        else:
            window = int(_permutation(count, seed, sweep=link // count)[link % count])
        return np.arange(window * r, (window + 1) * r) % d

    def lambda_min(self, r: int, d: int) -> float:
        """Return 1/⌈d/r⌉ when windows are drawn; 0 for a known window, unless it is the whole width."""
        if self.order == "shuffled" or r == d:
            return 1.0 / -(-d // r)
        return 0.0


@dataclass(frozen=True)
class Columns(Selector):
    """`r` columns drawn without replacement, new ones for each link.

    Source:
        random-cLA: Cadenhead et al. 2026, arXiv:2606.13767; PaCA: Woo et al. 2025, arXiv:2503.01905.

    Example:
        >>> Columns().indices(3, 8, seed=1, link=0)
        array([2, 3, 6])
    """

    def choose(self, r: int, d: int, *, seed: int, link: int) -> Matrix:
        """Draw r columns, in ascending order."""
        # Sorted, so that the gather walks memory forwards.
        return np.sort(generator(seed, link).permutation(d)[:r])

    def lambda_min(self, r: int, d: int) -> float:
        """Return r/d."""
        return r / d


@dataclass(frozen=True)
class RandomWindow(Selector):
    """`r` neighbouring columns at a random offset, which does not wrap around; a new offset for each link.

    Offsets are uniform on 0, …, d − r and independent, so that a later link may read an earlier one's columns again.

    Args:
        shared_seed: draw from this seed in place of each layer's, so that all layers of one width have one offset per
            link, in every run.

    Shapes:
        sample(r, d) -> (r, d), one-hot rows: S @ S.T == I exactly.

    Source:
        Released code of Beyond LoRA (Cadenhead et al. 2026, arXiv:2606.13767), for random-cLA and random-c3LA.

    Example:
        >>> RandomWindow(shared_seed=0).indices(3, 8, seed=1, link=0)
        array([5, 6, 7])
    """

    shared_seed: int | None = None

    def choose(self, r: int, d: int, *, seed: int, link: int) -> Matrix:
        """Draw an offset, and return the r columns from there on."""
        draw = generator(seed if self.shared_seed is None else self.shared_seed, link)
        return np.arange(r) + draw.randint(d - r + 1)

    def lambda_min(self, r: int, d: int) -> float:
        """Return 1/(d − r + 1), the share of the outermost columns, or 0 for a known offset, unless r = d."""
        return 1.0 / (d - r + 1) if self.shared_seed is None or r == d else 0.0


def _permutation(count: int, seed: int, *, sweep: int) -> Matrix:
    """Return the order of the windows in one sweep; it never begins with the window that the last sweep ended on."""
    order = generator(seed, 0, 1).permutation(count)
    for number in range(1, sweep + 1):
        last = order[-1]
        order = generator(seed, number, 1).permutation(count)
        if count > 1 and order[0] == last:
            order = np.roll(order, -1)
    return order
