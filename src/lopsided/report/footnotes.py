"""Sentences below a leaderboard, the same for the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from lopsided.plotting.words import joined
from lopsided.study.board_rows import Row
from lopsided.study.columns import Column


def same_as_notes(rows: Sequence[Row]) -> list[str]:
    """Return one sentence for every pair of methods made of the same parts."""
    pairs = {tuple(sorted((row.label, row.same_as))) for row in rows if row.same_as}
    return [
        f"{first} and {second} have the same parts: with the same seed they are the same run."
        for first, second in sorted(pairs)
    ]


def lacking_notes(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Return one sentence for every dash of a table: what it stands for, of which methods, and why."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        for row in rows:
            for part, reason in row.cells[column.key].why.items():
                title = column.title if part == "mean" else f"standard error of {column.title}"
                lacking.setdefault((title, reason), []).append(row.label)
    return [f"– {title}, {joined(labels)}: {reason}." for (title, reason), labels in lacking.items()]
