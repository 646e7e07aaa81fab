"""A section of a diagnosis: all that the program has to know of one diagnostic, as one value.

To add a diagnostic, write one file in `sections/` that ends with `SECTION = Section(...)`. `--only`, the terminal's
table, diagnosis.json, the page and the table in docs/use.md follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lopsided.diagnose.section_inputs import SectionInputs
from lopsided.diagnose.tuned_model import TunedModel
from lopsided.errors import LopsidedError
from lopsided.plotting.figure import LAST, FigureEntry


class Need(Enum):
    """What a section is computed from, as its documentation says it.

    The needs are listed from the cheapest. Sections are computed, and written to diagnosis.json, in the order of the
    most expensive of their needs; sections with the same one follow each other by their places.
    """

    PREDICTIONS = "the predictions of a finished run"
    LAYERS = "the tuned linear layers"
    LOG = "the log of a finished run"
    REFERENCE = "`--reference`"
    ROWS = "the model and validation rows of a finished run"
    OTHER_RUNS = "other runs, diagnosed by the same command"


ORDER = tuple(Need)
# What is known of a saved adapter without its run.
OF_AN_ADAPTER = frozenset({Need.LAYERS, Need.REFERENCE})


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A figure of a section that the terminal's table shows.

    Args:
        heading: of its column.
        cell: the text of a cell, from what the section computed; a dash where a figure is missing, whose reason then
            stands under `why` in the section, and below the table. Without the section, the cell is a dash as well.
        place: columns stand in the order of this number; at equal ones, in the order of the sections.
    """

    heading: str
    cell: Callable[[Any], str]
    place: int = LAST


@dataclass(frozen=True, kw_only=True)
class Section:
    """One diagnostic.

    Args:
        name: its key in diagnosis.json, and its name for `--only`.
        about: what it shows, for the documentation.
        needs: what it is computed from; where that is missing, the section is skipped, and diagnosis.json says why
            (except for a reference that was not given).
        compute: returns the section of one run or adapter, as plain data. Its `LopsidedError` becomes the reason why
            the section is missing.
        compare: returns the section of each of two or more models, by the model's id; instead of `compute`, for a
            section that needs other runs. Such a section is always computed, and `--only` does not name it.
        headlines: its columns in the terminal's table.
        figures: on the page, each with one sentence for what it shows and one for what that means for choosing a
            method.
        place: sections are listed in the order of this number; at equal ones, in the order of their registration.

    Raises:
        LopsidedError: unless it has either `compute` or `compare`, and the latter if and only if it needs other runs.
    """

    name: str
    about: str
    needs: frozenset[Need]
    compute: Callable[[SectionInputs], Any] | None = None
    compare: Callable[[Sequence[TunedModel]], Mapping[str, Any]] | None = None
    headlines: tuple[Headline, ...] = ()
    figures: tuple[FigureEntry, ...] = ()
    place: int = LAST

    def __post_init__(self) -> None:
        compares = Need.OTHER_RUNS in self.needs
        if (self.compare is not None) != compares or (self.compute is None) != compares:
            expected = "compare, and no compute" if compares else "compute, and no compare"
            raise LopsidedError(f"section {self.name!r}: expected {expected}; give it the one, and not the other")

    @property
    def is_of_one(self) -> bool:
        """Whether it is computed from one run or adapter, so that it can be asked for by name."""
        return Need.OTHER_RUNS not in self.needs

    @property
    def is_of_an_adapter(self) -> bool:
        """Whether an adapter without its run can have it."""
        return self.needs <= OF_AN_ADAPTER

    @property
    def turn(self) -> tuple[int, int]:
        """When it is computed: a key to sort sections by."""
        return max((ORDER.index(need) for need in self.needs), default=0), self.place
