"""What a diagnosis looks at, and how closely."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lopsided.diagnose.sections import SECTIONS
from lopsided.diagnose.sections.landscape import LandscapeConfig
from lopsided.errors import LopsidedError, unknown
from lopsided.settings import check_settings, documented
from lopsided_settings.diagnose import DiagnoseSettings


def section_names() -> tuple[str, ...]:
    """Return the sections that can be asked for by name."""
    return tuple(name for name, section in SECTIONS.items() if section.is_of_one)


@documented
@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig(DiagnoseSettings):
    """What is looked at, and how closely.

    `only` names some of `section_names()`; `landscape` holds the settings of landscapes and sharpness. `all_vectors`
    counts intruders among all singular vectors, and decomposes every tuned weight for it. Without a `reference`,
    forgetting is not measured.

    Raises:
        LopsidedError: for an unknown section, or numbers that make no sense.
    """

    only: tuple[str, ...] = field(default_factory=section_names)
    landscape: LandscapeConfig = field(default_factory=LandscapeConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        names = section_names()
        for name in self.only:
            if name not in names:
                raise LopsidedError(unknown("section", name, names, "some of"))

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
