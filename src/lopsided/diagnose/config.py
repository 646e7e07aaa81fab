"""What a diagnosis looks at, and how closely."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lopsided.diagnose.sections import SECTIONS
from lopsided.diagnose.sections.landscape import LandscapeConfig
from lopsided.errors import LopsidedError, nearest


def section_names() -> tuple[str, ...]:
    """Return the sections that can be asked for by name."""
    return tuple(name for name, section in SECTIONS.items() if section.is_of_one)


@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig:
    """What is looked at, and how closely.

    Args:
        only: of `section_names()`.
        top: how many leading singular vectors count as the first ones, for intruders and principal angles.
        all_vectors: count intruders among all singular vectors as well, which decomposes every tuned weight.
        landscape: of landscapes and sharpness.
        reference: what the base model could do before: a text file, or scored sentence pairs; None does not look at
            what was forgotten.
        seed: of draws.

    Raises:
        LopsidedError: for an unknown section, or numbers that make no sense.
    """

    only: tuple[str, ...] = field(default_factory=section_names)
    top: int = 10
    all_vectors: bool = True
    landscape: LandscapeConfig = field(default_factory=LandscapeConfig)
    reference: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        names = section_names()
        for name in self.only:
            if name not in names:
                known = ", ".join(names)
                raise LopsidedError(f"unknown section {name!r}; expected some of {known};{nearest(name, names)}")
        if self.top < 1:
            raise LopsidedError(f"top must be at least 1, got {self.top}")

    def to_json(self) -> dict[str, Any]:
        """Return the `settings` of diagnosis.json."""
        return {
            "only": list(self.only),
            "top": self.top,
            "all_vectors": self.all_vectors,
            "around": dataclasses.asdict(self.landscape),
            "reference": None if self.reference is None else str(self.reference),
            "seed": self.seed,
        }
