"""The runs that faults are tried on."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.moments import KINDS, Moment

# Checkpoints stand at 5, 10 and 15, epochs end at 6 and 12, links at 3, 7 and 11; ReLoRA re-warms over 5 steps.
OPTIONS = {"steps": 15, "evaluations": 3, "batch_size": 12, "rank": 4, "lr": 2e-2, "max_length": 16, "dropout": 0.1}
METHODS: dict[str, dict[str, Any]] = {
    **{name: {"links": 4} for name in ("c3la", "rac_b", "relora")},
    **{name: {} for name in ("lora", "head", "full")},
}


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to: its folder, what a run like it is made of, and how long it took."""

    folder: Path
    settings: dict[str, Any]
    counts: Counter[str]
    seconds: float

    def draw(self, generator: random.Random, kinds: tuple[str, ...] = KINDS) -> Moment:
        kind = generator.choice([kind for kind in kinds if self.counts[kind]])
        return Moment(kind, generator.randint(1, self.counts[kind]), generator.random())
