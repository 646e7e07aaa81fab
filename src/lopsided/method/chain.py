"""When a new link starts.

A *link* is one stage of a chain: at its end ΔW joins the weights, and the next one starts from zero with a new sketch.
"""

from __future__ import annotations

from dataclasses import dataclass

from lopsided.errors import LopsidedError


@dataclass(frozen=True, kw_only=True)
class Chain:
    """When a new link starts, and what happens to the optimizer then.

    Args:
        links: number of links of a run, evenly spread over its steps.
        every: steps per link; with it the number of links follows from the run's length.
        prune: share of the redrawn factor's optimizer state that is set to zero, smallest entries first.
            1.0 starts over, as COLA and RAC-LoRA do.
        rewarm: steps over which the learning rate climbs back, linearly, after each new link.

    Source:
        Even links and a fresh state: Xia et al. 2024, arXiv:2401.04151; Malinovsky et al. 2024,
        arXiv:2410.08305. Pruning and re-warm-up: Lialin et al. 2023, arXiv:2307.05695.

    Example:
        >>> Chain(links=4).boundaries(10)
        (2, 5, 7)
    """

    links: int | None = None
    every: int | None = None
    prune: float = 1.0
    rewarm: int = 0

    def __post_init__(self) -> None:
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

    def boundaries(self, steps: int) -> tuple[int, ...]:
        """Return the steps after which a new link starts, in a run of `steps` optimizer steps.

        With `links`, lengths differ by at most one step.

        Raises:
            LopsidedError: if there are more links than steps, a link is longer than the run, or the chain has
                neither number.
        """
        if self.every is not None:
            if self.every > steps:
                raise LopsidedError(f"a link of every={self.every} steps does not fit a run of {steps} steps")
            return tuple(range(self.every, steps, self.every))
        if self.links is None:
            raise LopsidedError("the chain has neither links nor every, so no link would ever end; give one of them")
        links = self.links
        if links > steps:
            raise LopsidedError(f"links must not exceed the steps: links={links}, steps={steps}; lower links")
        return tuple(k * steps // links for k in range(1, links))
