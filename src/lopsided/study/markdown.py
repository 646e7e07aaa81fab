"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Example:
        >>> print(markdown_table(["method", "score"], [["lora", "90.1"]]))
        | method | score |
        |---|---|
        | lora | 90.1 |
        <BLANKLINE>
    """
    lines = [list(heads), *[[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]]
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(heads), *text[1:]]) + "\n"
