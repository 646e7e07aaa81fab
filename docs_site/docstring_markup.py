"""Convert the library's docstrings to reStructuredText, which Sphinx's autodoc expects.

They are written for readers of the source: single backticks are code, an indented paragraph is shown as it stands, and
`*`, `|` and `_` are what they are in mathematics. Sections such as `Args` are left to napoleon, which comes after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
BOLD = re.compile(r"\*\*[^*\n]+\*\*")
# What is markup to docutils and not to us: bars, stars, and an underscore at a word's end.
MARKUP = re.compile(r"[|*\\]|(?<=\w)_(?=\W|$)")
DEFAULT = re.compile(r"= ?<[^<>]*>")
COLUMNS = re.compile(r"^(\w+) {2,}(\S.*)$")
# As text, its hyphens would become a dash.
OPTION = re.compile(r"(?<!\S)(--[a-z][\w-]*)")
SECTION = re.compile(r"^[A-Z][a-z]+( [a-z]+)?:$")


def setup(app: Any) -> dict[str, Any]:
    """Register the conversion with Sphinx, before napoleon's."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-process-signature", _process_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _process(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    # Of a property napoleon takes what stands before the first line's colon for a type: here that is an empty comment.
    lines[:] = ["..", "", *restructured(lines)] if what in ("attribute", "property") else restructured(lines)


def _process_signature(
    app: Any, what: str, name: str, item: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    # A default such as <factory> is no Python, and Sphinx would read the whole signature word by word.
    return None if signature is None else DEFAULT.sub("= ...", signature), returns


def restructured(lines: list[str]) -> list[str]:
    """Return a docstring's lines as reStructuredText.

    Example:
        >>> restructured(["Return `x`*y.", "", "    |a| <= b", "", "Args:", "    x: of a `Run`."])
        ['Return ``x``\\\\ \\\\*y.', '', '::', '', '    |a| <= b', '', 'Args:', '    x: of a ``Run``.']
    """
    converted: list[str] = []
    for paragraph, in_section in _paragraphs(lines):
        if converted:
            converted.append("")
        first = paragraph[0]
        if first.lstrip().startswith(">>>"):
            converted += paragraph
        elif first.startswith("| ") and len(paragraph) > 1 and set(paragraph[1]) <= set("|-: "):
            converted += _table(paragraph)
        elif (rows := _aligned(paragraph)) and not in_section:
            converted += [f"- ``{name}``: {_inline(words)}" for name, words in rows]
        elif first.startswith("    ") and not in_section:
            converted += ["::", "", *paragraph]
        else:
            converted += [_inline(line) for line in paragraph]
    return converted


def _paragraphs(lines: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Yield the paragraphs, and whether each stands in a section such as `Args`."""
    paragraph: list[str] = []
    in_section = False
    for line in [*lines, ""]:
        if line.strip():
            in_section = bool(SECTION.match(line)) or (in_section and line.startswith(" "))
            paragraph.append(line.rstrip())
        elif paragraph:
            yield paragraph, in_section
            paragraph = []


def _inline(line: str) -> str:
    """Return a line with our code as docutils' code, and all else escaped that is no markup here."""
    parts = re.split(rf"({CODE.pattern.replace('([', '(?:[')}|{BOLD.pattern}|``[^`]+``)", line)
    text = ""
    for part in parts:
        if not part:
            continue
        code = CODE.fullmatch(part)
        if code:
            # Docutils wants a border before and after code; an escaped space is one, and is not shown.
            text += ("" if not text or text[-1] in " (" else r"\ ") + f"``{code[1]}``"
        elif BOLD.fullmatch(part) or part.startswith("``"):
            text += part
        else:
            border = r"\ " if text.endswith("``") and part[0] not in " .,:;)'-" else ""
            escaped = MARKUP.sub(lambda match: "\\" + match[0], part)
            text += border + OPTION.sub(r"``\1``", escaped)
    return text


def _aligned(paragraph: list[str]) -> list[tuple[str, str]]:
    """Return the names and descriptions of a list in two columns, which begins at the margin; nothing for other text.

    Example:
        >>> _aligned(["method    what it is", "chain     when a link", "          starts"])
        [('method', 'what it is'), ('chain', 'when a link starts')]
    """
    rows: list[tuple[str, str]] = []
    for line in paragraph:
        row = COLUMNS.match(line)
        if row:
            rows.append((row[1], row[2]))
        elif rows and line.startswith(" " * 8):
            rows[-1] = (rows[-1][0], f"{rows[-1][1]} {line.strip()}")
        else:
            return []
    return rows if len(rows) > 1 else []


def _table(rows: list[str]) -> list[str]:
    """Return a table of Markdown as a list table."""
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (rows[0], *rows[2:])]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in cells:
        lines += [f"   {'* -' if at == 0 else '  -'} {_inline(cell)}" for at, cell in enumerate(row)]
    return lines
