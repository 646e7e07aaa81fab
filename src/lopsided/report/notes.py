"""What the page and the terminal both have to say about a table: its rows, its marks, its footnotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lopsided.files.strict_json import WHY
from lopsided.formatting import joined

SCHEMA = 1


def check_schema(results: dict[str, Any]) -> None:
    """Raise ValueError unless `results` has the schema that this version reads."""
    if results["schema"] != SCHEMA:
        raise ValueError(
            f"expected results of schema {SCHEMA}, received {results['schema']!r}; "
            "write them again with this version of lopsided"
        )


def has_failed(row: dict[str, Any]) -> bool:
    """Whether the row has an error to show instead of figures."""
    return bool(row["status"] != "ok")


def failure(row: dict[str, Any]) -> str:
    """Why a failed row has no figures: its error, or its status where no error was kept."""
    return str(row.get("error") or row["status"])


def grouped(results: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the methods compared, and the rows of the floor, each in the given order."""
    rows = results["rows"]
    return [row for row in rows if not row["floor"]], [row for row in rows if row["floor"]]


def tied_meaning(results: dict[str, Any]) -> str:
    """What a tie is in these results, which depends on how many seeds there are."""
    seeds = len(results["seeds"])
    if seeds == 1:
        return "within two standard errors of the paired difference, with one seed"
    return f"the interval of the paired differences over the {seeds} seeds holds zero"


def same_as_notes(results: dict[str, Any]) -> list[str]:
    """One sentence for every pair of methods made of the same parts."""
    pairs = {tuple(sorted((row["method"], row["same_as"]))) for row in results["rows"] if row.get("same_as")}
    return [
        f"{first} and {second} have the same parts: with the same seed they are the same run."
        for first, second in sorted(pairs)
    ]


def lacking_notes(columns: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """One sentence for every dash of a table: what it stands for, of which methods, and why.

    Args:
        name: the key of a row under which its method stands.
    """
    lacking: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        for row in rows:
            for what, reason in row["cells"].get(column["key"], {}).get(WHY, {}).items():
                title = column["title"] if what == "mean" else f"standard error of {column['title']}"
                lacking.setdefault((title, reason), []).append(row[name])
    return [f"– {title}, {joined(names)}: {reason}." for (title, reason), names in lacking.items()]
