"""The same table in the terminal, with rich: figures first, the two sentences last."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lopsided.formatting import MARKS, cell_figure
from lopsided.report.notes import check_schema, failure, grouped, has_failed, lacking_notes, same_as_notes, tied_meaning

# Headings short enough for seven columns with their errors in a hundred characters.
_SHORT = {
    "trained_parameters": "trained",
    "score": "test",
    "ood_score": "OOD",
    "generalization_error": "G(W)",
    "step_ms": "ms/step",
    "kept_bytes": "kept",
    "file_bytes": "file",
}
_STYLES = {"best": "bold green", "tied": ""}


def print_table(results: dict[str, Any], console: Console) -> None:
    """Print the comparison, its legend and its sentences.

    What doesn't fit the console is left out by steps, and said: first the standard errors of all
    columns but the score, then columns from the right.

    Args:
        results: the dictionary that `lopsided compare` writes as results.json, schema 1.
        console: where to print; its width decides what is shown.

    Raises:
        ValueError: if the schema or a column's unit is one this version doesn't know.
    """
    check_schema(results)
    table, cut = _fitting(results, console)
    console.print(Text(_printable(results["title"]), style="bold"))
    console.print(table)
    for row in results["rows"]:
        if has_failed(row):
            lines = failure(row).strip().splitlines() or [row["status"]]
            console.print(Text(f"{_printable(row['method'])}: {_printable(lines[0])}", style="red"))
    lacking = lacking_notes(results["columns"], results["rows"], "method")
    for note in [_legend(results), *lacking, *same_as_notes(results), *cut]:
        console.print(Text(_printable(note), style="dim"))
    if results["sentences"]:
        console.print()
    for sentence in results["sentences"]:
        console.print(Text(_printable(sentence)))


def _fitting(results: dict[str, Any], console: Console) -> tuple[Table, list[str]]:
    """The fullest table that the console can show, and what to say of what it lacks."""
    columns = results["columns"]
    table = _table(results, columns, spare_errors=False)
    if _width(table, console) <= console.width:
        return table, []
    cut = ["For want of width, standard errors are shown for the score only; results.json has them all."]
    for shown in range(len(columns), 0, -1):
        table = _table(results, columns[:shown], spare_errors=True)
        if _width(table, console) <= console.width:
            break
    if hidden := [_heading(column) for column in columns[shown:]]:
        cut.append(f"For want of width, these columns are left out: {', '.join(hidden)}.")
    return table, cut


def _width(table: Table, console: Console) -> int:
    # Measured without a limit: under the console's own width rich would answer that anything fits.
    return Measurement.get(console, console.options.update(width=10_000), table).maximum


def _table(results: dict[str, Any], columns: list[dict[str, Any]], *, spare_errors: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("method", no_wrap=True, overflow="ellipsis", max_width=18)
    for column in columns:
        table.add_column(_heading(column), justify="right", no_wrap=True)
    methods, floor = grouped(results)
    for row in methods:
        table.add_row(*_texts(row, columns, spare_errors), style="red" if has_failed(row) else "")
    if floor:
        table.add_row(Text("─" * 5 + " floor", style="dim"))
        for row in floor:
            table.add_row(*_texts(row, columns, spare_errors), style="red" if has_failed(row) else "dim")
    return table


def _heading(column: dict[str, Any]) -> str:
    short = _SHORT.get(column["key"], column["title"])
    # The cells leave the sign out: with it, seven columns don't fit.
    return _printable(f"{short} %" if column["unit"] == "percent" else short)


def _texts(row: dict[str, Any], columns: list[dict[str, Any]], spare_errors: bool) -> list[Text]:
    name = Text(_printable(row["method"]))
    if has_failed(row):
        return [name, Text(_printable(row["status"]))]
    return [name, *(_cell(row["cells"].get(column["key"], {}), column, spare_errors) for column in columns)]


def _cell(cell: dict[str, Any], column: dict[str, Any], spare_errors: bool) -> Text:
    figure, mark = cell_figure(cell, column["unit"]), cell.get("mark")
    text = figure.mean
    if figure.se is not None and not (spare_errors and column["key"] != "score"):
        text += f"±{figure.se}"
    if figure.suffix and column["unit"] != "percent":
        text += f" {figure.suffix}"
    return Text(f"{MARKS[mark]} {text}", style=_STYLES[mark]) if mark else Text(text)


def _legend(results: dict[str, Any]) -> str:
    floor = "; floor: only the task head was trained" if any(row["floor"] for row in results["rows"]) else ""
    return f"mean±standard error; ● best; ○ tied: {tied_meaning(results)}{floor}"


def _printable(text: str) -> str:
    """Without control characters: a name may come from a user's file, and must not steer the terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
