"""Pieces of generated pages: sections, tables, and rows of tables that other pages hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from docs_site.link_targets import REPOSITORY
from lopsided import LopsidedError
from lopsided.study.markdown import markdown_table

# What follows the first heading of each generated page; nobody should mend such a page by hand.
GENERATED = "<!-- written by python -m docs_site -->"


def page(title: str, parts: Iterable[str]) -> str:
    """Return a generated page: a title, and parts with empty lines between them. Empty parts are left out."""
    return "\n\n".join([f"# {title}", GENERATED, *(part.strip() for part in parts if part.strip())]) + "\n"


def section(title: str, *parts: str) -> str:
    """Return a section with a heading of the second level, or nothing if no part says anything."""
    said = [part.strip() for part in parts if part.strip()]
    return "\n\n".join([f"## {title}", *said]) if said else ""


def facts(pairs: Mapping[str, str]) -> str:
    """Return a table of two columns with an empty heading row: names, and what they are."""
    return markdown_table(["", ""], [list(pair) for pair in pairs.items()])


def code(text: str, language: str = "python") -> str:
    """Return a block of code."""
    return f"```{language}\n{text.strip()}\n```"


def row_of(document: str, first_cell: str) -> dict[str, str]:
    """Return the cells of a row of a table in a written page, by the words of its heading row.

    Args:
        document: the page's path in the repository.
        first_cell: the row's first cell as it is written.

    Raises:
        LopsidedError: if no table of the page has such a row.
    """
    heads: Sequence[str] = ()
    above: Sequence[str] = ()
    for line in (REPOSITORY / document).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells and set("".join(cells)) <= set("-: "):
            heads = above
        elif cells and heads and cells[0] == first_cell:
            return dict(zip(heads, cells))
        above = cells
        heads = heads if cells else ()
    raise LopsidedError(f"{document} has no row {first_cell!r} in a table; expected one; write the page again")
