"""The page: results as a dictionary -> one HTML text with its style, its plots and plotly.js inside."""

from __future__ import annotations

import os
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline

from lopsided.report.format import MARKS, cell_text, duration, is_finite
from lopsided.report.notes import (
    check_schema,
    failure,
    grouped,
    has_failed,
    joined,
    same_as_notes,
    tied_meaning,
)
from lopsided.report.plots import plots

# Columns whose meaning a title can't carry; the floor and the marks have notes of their own.
_COLUMN_NOTES = {
    "generalization_error": (
        "G(W) is |test loss − train loss|, taken at the checkpoint that was best on the validation split."
    ),
    "kept_bytes": ("Kept for backward: the bytes that autograd saves in one training step, parameters left out."),
}


def render(results: dict[str, Any]) -> str:
    """The whole page as text; every string of `results` is escaped."""
    check_schema(results)
    files = resources.files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    methods, floor = grouped(results)
    notes = [column["key"] for column in results["columns"] if column["key"] in _COLUMN_NOTES]
    return environment.get_template("page.html").render(
        results=results,
        identity=_identity(results),
        settings=[(key.replace("_", " "), _plain(value)) for key, value in results["settings"].items()],
        columns=[_column(column, notes) for column in results["columns"]],
        methods=[_row(row, results["columns"]) for row in methods],
        floor=[_row(row, results["columns"]) for row in floor],
        tied_meaning=tied_meaning(results),
        notes=[(key, _COLUMN_NOTES[key]) for key in notes],
        same_as=same_as_notes(results),
        plots=plots(results),
        plotly_js=plotly.offline.get_plotlyjs(),
    )


def write_atomically(text: str, path: Path) -> None:
    """Write `text` to `path` whole or not at all: a temporary file in the same folder, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # "replace": a lone surrogate from a badly decoded error message must not cost the page.
        with temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _identity(results: dict[str, Any]) -> dict[str, str]:
    created = datetime.fromisoformat(results["created"])
    machine = results["machine"]
    seeds = [str(seed) for seed in results["seeds"]]
    seconds = results["wall_seconds"]
    return {
        "created": f"{created.day} {created:%B %Y, %H:%M} {created.tzname() or ''}".strip(),
        "seeds": f"{'seed' if len(seeds) == 1 else 'seeds'} {joined(seeds)}",
        "took": f" in {duration(seconds)}" if is_finite(seconds) else "",
        "machine": f"{machine['processor']} ({_counted(machine['cores'], 'core')}, "
        f"{_counted(machine['threads'], 'thread')})",
        "versions": joined([f"{name} {version}" for name, version in results["versions"].items()]),
    }


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _plain(value: Any) -> str:
    """A setting as text: numbers as Python writes them, lists by commas, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return str(value)


def _column(column: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    key = column["key"]
    return {
        "key": key,
        "title": column["title"],
        "hint": {"high": "↑ higher is better", "low": "↓ lower is better"}[column["better"]],
        "number": notes.index(key) + 1 if key in notes else None,
    }


def _row(row: dict[str, Any], columns: list[dict[str, Any]]) -> dict[str, Any]:
    failed = has_failed(row)
    cells = [(row["cells"].get(column["key"], {}), column["unit"]) for column in columns]
    return {
        "method": row["method"],
        "status": row["status"],
        "error": failure(row) if failed else None,
        "cells": [] if failed else [_cell(cell, unit) for cell, unit in cells],
        "trains": row.get("trains"),
        "links": row.get("links"),
        "learning_rate": _plain(row.get("learning_rate")),
        "source": row.get("source"),
        "runs": row.get("runs") or [],
    }


def _cell(cell: dict[str, Any], unit: str) -> dict[str, Any]:
    mean, mark = cell.get("mean"), cell.get("mark")
    return {
        "text": cell_text(cell, unit),
        "value": mean if is_finite(mean) else None,
        "mark": mark,
        "dot": MARKS[mark] if mark else "",
    }
