"""When a new link starts, and what happens then.

A *link* is one stage of a chain. In the papers' mathematics ΔW joins the weights at its end, and the next one starts
from zero with a new sketch. Code that others have released leaves out one or the other, so each is a switch.

Notation: link t computes W_t·x + s·B_t·A_t·x. A factor that trains starts the first link at zero or at the sketch S.

| merge | redraw | at an advance | the function |
|---|---|---|---|
| yes | yes | W_{t+1} = W_t + s·B_t·A_t; what started at zero starts there again, next to a new sketch | stays |
| yes | no | W_{t+1} = W_t + s·B_t·A_t; what started at zero starts there again, next to the same sketch | stays |
| no | yes | W stays; the learned factor moves on to a new sketch | jumps |
| no | no | nothing but the optimizer's state and rate changes | stays |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from lopsided.errors import LopsidedError

# What a chain of every version has. The other switches are in a file only where they are not at their defaults, so that
# earlier versions read whatever they can train.
LONG_KNOWN = ("links", "every", "prune", "rewarm")


@dataclass(frozen=True, kw_only=True)
class Chain:
    """When a new link starts, and what happens to the weights, the sketch, the optimizer and its rate then.

    Args:
        links: number of links of a run, evenly spread over its steps.
        every: steps per link; with it the number of links follows from the run's length.
        merge: whether ΔW joins the weights, and the factors that started at zero start there again. Without it they
            go on from what they have learned.
        redraw: whether a new sketch is drawn: for the factor that does not train, and as the new start of a factor
            that starts at the sketch, as LoRA's A does. Without it the sketch stays, and such a factor goes on.
        prune: share of the trained factors' optimizer state that is set to zero, smallest entries first.
            1.0 starts over, as COLA and RAC-LoRA do; 0.0 keeps all of it.
        rewarm: steps over which the learning rate climbs back, linearly, after each new link.
        freeze_rate: whether the learning rates stay, from the first advance to the end, at what the schedule gives
            for the first step after that advance.

    Source:
        Even links and a fresh state: Xia et al. 2024, arXiv:2401.04151; Malinovsky et al. 2024,
        arXiv:2410.08305. Pruning and re-warm-up: Lialin et al. 2023, arXiv:2307.05695. The other switches are
        what released code of Beyond LoRA does: `profiles.py`.

    Example:
        >>> Chain(links=4).boundaries(10)
        (2, 5, 7)
        >>> Chain(links=4, merge=False).jumps
        True
    """

    links: int | None = None
    every: int | None = None
    merge: bool = True
    redraw: bool = True
    prune: float = 1.0
    rewarm: int = 0
    freeze_rate: bool = False

    def __post_init__(self) -> None:
        for name in ("merge", "redraw", "freeze_rate"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise LopsidedError(f"{name} must be True or False, got {value!r}")
        for name in ("links", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LopsidedError(f"{name} must be at least 1, got {value}")
        if self.links is not None and self.every is not None:
            raise LopsidedError(f"give links or every, not both: got links={self.links}, every={self.every}")
        if self.rewarm < 0:
            raise LopsidedError(f"rewarm is a number of steps, 0 or more, got {self.rewarm}")
        if not 0.0 <= self.prune <= 1.0:
            raise LopsidedError(f"prune is a share between 0 and 1, got {self.prune}")

    @property
    def jumps(self) -> bool:
        """Whether an advance changes the function: a learned factor moves on to a new sketch."""
        return self.redraw and not self.merge

    @property
    def restarts(self) -> bool:
        """Whether an advance changes a trained factor or its sketch, and not the optimizer alone."""
        return self.redraw or self.merge

    @property
    def departures(self) -> tuple[str, ...]:
        """What it does otherwise than merge, redraw and start over, in words for tables and `repr`.

        Example:
            >>> Chain(links=4).departures
            ()
            >>> Chain(links=4, merge=False, prune=0.0).departures
            ('not merged', 'jumps', 'prune 0')
        """
        words = {
            "not merged": not self.merge,
            "not redrawn": not self.redraw,
            "jumps": self.jumps,
            f"prune {self.prune:g}": self.prune < 1.0,
            f"re-warm {self.rewarm}": self.rewarm > 0,
            "rate frozen": self.freeze_rate,
        }
        return tuple(word for word, holds in words.items() if holds)

    def parts(self) -> dict[str, Any]:
        """Return the chain as plain data, without the switches that earlier versions do not know and are at their
        defaults.

        Example:
            >>> Chain(links=4).parts()
            {'links': 4, 'every': None, 'prune': 1.0, 'rewarm': 0}
        """
        values = dataclasses.asdict(self)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {key: value for key, value in values.items() if key in LONG_KNOWN or value != defaults[key]}

    def boundaries(self, steps: int) -> tuple[int, ...]:
        """Return the steps after which a new link starts, in a run of `steps` optimizer steps.

        With `links`, lengths differ by at most one step.

        Raises:
            LopsidedError: if there are more links than steps, a link is longer than the run, or the chain has
                neither number.
        """
        if self.every is not None:
            if self.every > steps:
                raise LopsidedError(
                    f"a link of every={self.every} steps does not fit a run of {steps} steps; lower every"
                )
            return tuple(range(self.every, steps, self.every))
        if self.links is None:
            raise LopsidedError("the chain has neither links nor every, so no link would ever end; give one of them")
        links = self.links
        if links > steps:
            raise LopsidedError(f"links must not exceed the steps: links={links}, steps={steps}; lower links")
        return tuple(k * steps // links for k in range(1, links))
