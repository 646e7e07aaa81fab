"""What `lopsided compare` measured, as one HTML file (`write_report`) or a terminal table (`terminal`).

Both are pure functions of the dictionary in results.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["write_report"]


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write `results` to `path` as one self-contained HTML file that opens without a network.

    The file appears whole or not at all: it is written beside `path` and renamed over it.

    Args:
        results: the dictionary that `lopsided compare` writes as results.json, schema 1.
        path: the file to write; its folder must exist.

    Raises:
        ModuleNotFoundError: if plotly or jinja2 is missing.
        ValueError: if the schema or a column's unit is one this version doesn't know.
    """
    # Here and not at the top: the terminal table lives in this package and needs neither library.
    try:
        from lopsided.report.page import render, write_atomically
    except ModuleNotFoundError as error:
        if error.name not in ("plotly", "jinja2"):
            raise
        raise ModuleNotFoundError(
            f"the HTML report needs plotly and jinja2, and {error.name} is not installed; "
            "run: pip install 'lopsided[report]'",
            name=error.name,
        ) from error
    write_atomically(render(results), path)
