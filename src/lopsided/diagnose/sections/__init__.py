"""The table of sections: a file in this folder is an entry, by its `SECTION`."""

from __future__ import annotations

import importlib
import pkgutil

from lopsided.diagnose.section import Section
from lopsided.errors import LopsidedError

__all__ = ["SECTIONS", "register_section"]

SECTIONS: dict[str, Section] = {}


def register_section(section: Section) -> Section:
    """Add a section to `SECTIONS`, and so to `--only`, the terminal, diagnosis.json, the page and the documentation.

    Raises:
        LopsidedError: if another section has that name.
    """
    if SECTIONS.get(section.name, section) != section:
        raise LopsidedError(f"section {section.name!r} is registered with other parts; choose another name")
    SECTIONS[section.name] = section
    # Python's sort keeps the order of equal places.
    in_order = sorted(SECTIONS.values(), key=lambda each: each.place)
    SECTIONS.clear()
    SECTIONS.update({each.name: each for each in in_order})
    return section


for _file in pkgutil.iter_modules(__path__):
    register_section(importlib.import_module(f"{__name__}.{_file.name}").SECTION)
