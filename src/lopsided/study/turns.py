"""Pieces of work that take turns, so that what disturbs the machine disturbs all of them alike.

Notation: a round does each piece once, in an order that is shuffled again for each round. Two pieces are compared
within rounds, by the median of their ratios (`lopsided.stats.median_ratio`).
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping


def wall_ms(work: Callable[[], object]) -> float:
    """Return the milliseconds of wall time that `work` takes."""
    start = time.perf_counter()
    work()
    return 1000.0 * (time.perf_counter() - start)


def take_turns(
    work: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    warmup: int = 0,
    seed: int = 0,
    note: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Measure each piece of work once per round.

    Args:
        work: by name; each call does the work once and returns its figure, such as milliseconds.
        rounds: how many count; `warmup` rounds before them are thrown away.
        seed: of the order.
        note: called after each round.

    Returns:
        The figures by name, one per round that counts.
    """
    order, shuffled = list(work), random.Random(seed)
    taken: dict[str, list[float]] = {name: [] for name in work}
    # A collection in the middle of a step would be one piece's bad luck. What lives now is frozen, so that the
    # collections between the steps look at little.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for number in range(-warmup, rounds):
            shuffled.shuffle(order)
            for name in order:
                gc.collect()
                figure = work[name]()
                if number >= 0:
                    taken[name].append(figure)
            note()
    finally:
        gc.enable()
        gc.unfreeze()
    return taken
