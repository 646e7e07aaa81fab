"""The tables that follow from `SECTIONS`: the terminal's columns, and the list of sections for the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lopsided.diagnose.section import Headline, Need, Section
from lopsided.diagnose.sections import SECTIONS
from lopsided.formatting import MISSING


def headings() -> list[str]:
    """Return the headings of the terminal's table, that of the run's name first."""
    return ["run", *(headline.heading for _, headline in _columns())]


def cells(diagnosis: Mapping[str, Any]) -> list[str]:
    """Return a diagnosis as one row; a dash for what it does not have, or could not compute."""
    row = [str(diagnosis["run"]["name"])]
    for section, headline in _columns():
        content = diagnosis.get(section.name)
        row.append(headline.cell(content) if content else MISSING)
    return row


def documentation() -> str:
    """Return the sections as a Markdown table: what each shows, what it needs, and whether an adapter can have it."""
    rows = [["section", "shows", "needs", "of an adapter alone"], ["---"] * 4]
    for section in SECTIONS.values():
        needs = [need.value for need in Need if need in section.needs]
        rows.append([f"`{section.name}`", section.about, ", ".join(needs), "yes" if section.is_of_an_adapter else ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _columns() -> list[tuple[Section, Headline]]:
    pairs = [(section, headline) for section in SECTIONS.values() for headline in section.headlines]
    return sorted(pairs, key=lambda pair: pair[1].place)
