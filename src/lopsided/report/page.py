"""The page: what `gather` found -> one HTML text with its style, its figures and plotly.js inside."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2
import markupsafe
import plotly.offline

from lopsided.files.strict_json import WHY
from lopsided.formatting import cell_figure, cell_text, joined
from lopsided.plotting.colours import PATHS
from lopsided.report.figures import figures, looks, missing
from lopsided.report.notes import lacking_notes
from lopsided.report.tables import advice_tables, lab_table, run_table

# Columns whose meaning a title can't carry.
_COLUMN_NOTES = {
    "generalization_error": (
        "G(W) is |test loss − train loss|, taken at the checkpoint that was best on the validation split."
    ),
    "kept_bytes": "Kept for backward: the bytes that autograd saves in one training step, parameters left out.",
}
_PLACES = {1: "first place", 2: "second place", 3: "third place"}


def render(gathered: dict[str, Any], *, live: str = "") -> str:
    """The whole page as text; every string of `gathered` is escaped.

    Args:
        gathered: what `gather` returned.
        live: for a served page, the state that it was made of; the page asks for it, and reloads when it is another.
    """
    files = resources.files(__package__) / "web"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ticks"] = _ticks
    styles = looks(gathered["groups"], gathered["runs"])
    groups = [_group(table, gathered["runs"]) for table in gathered["groups"]]
    drawn = [{"key": g["key"], "figures": [_drawn(figure) for figure in g["figures"]]} for g in groups]
    return environment.get_template("page.html").render(
        title=gathered["title"],
        identity=_identity(gathered),
        live=live,
        looks=styles,
        paths=PATHS,
        filters=_filters(gathered["groups"]),
        groups=groups,
        tables=[*lab_table(gathered["lab"]), *advice_tables(gathered["advice"]), run_table(gathered["runs"])],
        data={"looks": styles, "groups": drawn},
        plotly_js=plotly.offline.get_plotlyjs(),
    )


def _ticks(text: str) -> markupsafe.Markup:
    """What stands between backticks, as code; all of it escaped."""
    parts = str(markupsafe.escape(text)).split("`")
    if len(parts) % 2 == 0:
        return markupsafe.Markup("`".join(parts))
    return markupsafe.Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


def _drawn(figure: dict[str, Any]) -> dict[str, Any]:
    """What plots.js needs of a figure: its words are in the page already."""
    return {key: figure[key] for key in ("key", "kind", "title", "choose", "views")}


def _identity(gathered: dict[str, Any]) -> str:
    runs = gathered["runs"]
    finished = [run for run in runs if run["status"] == "finished"]
    other = len(runs) - len(finished)
    parts = [f"{len(finished)} finished run{'' if len(finished) == 1 else 's'}"]
    parts += [f"{other} that failed or did not finish"] if other else []
    text = f"{joined(parts)}, put together by lopsided {gathered['versions']['lopsided']}."
    if gathered["not_finite"]:
        text += f" {gathered['not_finite']} of their numbers are not finite, and are gaps here."
    return " ".join([text, *gathered["notes"]])


def _filters(tables: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    found = [(name, list(dict.fromkeys(table[name] for table in tables))) for name in ("model", "task")]
    return [(name, choices) for name, choices in found if len(choices) > 1]


def _group(table: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    members = [run for run in runs if run["group"] == table["key"]]
    columns = table["columns"]
    sign = {c["key"]: 1.0 if c["better"] == "low" else -1.0 for c in columns}
    keys = [column["key"] for column in columns]
    by = "score" if "score" in keys else next(iter(keys), "method")
    rows = sorted(table["rows"], key=lambda row: _order(row, by, sign.get(by, 1.0)))
    seeds = {len(row["seeds"]) for row in rows}
    # The best first in every figure and choice, as in the table.
    place = {row["label"]: number for number, row in enumerate(rows)}
    members.sort(key=lambda run: place.get(run["label"], len(place)))
    return {
        **{key: table[key] for key in ("key", "model", "task", "sentences", "absent")},
        "note": _sentence(table["note"]),
        "sorted": by,
        "caption": _caption(seeds),
        "tied_meaning": _tied_meaning(seeds),
        "columns": [_column(column) for column in columns],
        "rows": [_row(row, columns) for row in rows],
        "notes": _notes(table, rows),
        "figures": [figure.to_json() for figure in figures(table, members)],
        "missing": missing(members),
    }


def _order(row: dict[str, Any], by: str, sign: float) -> tuple[bool, float]:
    mean = row["cells"].get(by, {}).get("mean")
    return mean is None, sign * (mean or 0.0)


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def _caption(seeds: set[int]) -> str:
    if seeds == {1}:
        return "One seed, with the 95 % interval that its test rows leave"
    if len(seeds) == 1:
        return f"Mean and 95 % interval over {seeds.pop()} seeds"
    return "Mean and 95 % interval over each method's seeds; with one seed, the interval that its test rows leave"


def _tied_meaning(seeds: set[int]) -> str:
    if seeds == {1}:
        return ": it is within two standard errors of the paired difference, with one seed"
    return ": the 95 % interval of the paired differences over seeds holds zero"


def _column(column: dict[str, Any]) -> dict[str, Any]:
    high = column["better"] == "high"
    return {
        "key": column["key"],
        "title": column["title"],
        "first": "descending" if high else "ascending",
        "hint": "↑ higher is better" if high else "↓ lower is better",
    }


def _row(row: dict[str, Any], columns: list[dict[str, Any]]) -> dict[str, Any]:
    links = f", {row['links']} links" if row["links"] > 1 else ""
    seeds = f"seed {row['seeds'][0]}" if len(row["seeds"]) == 1 else f"{len(row['seeds'])} seeds"
    return {
        "label": row["label"],
        "floor": row["floor"],
        "about": f"trains {row['trains']}{links}; {seeds}",
        "cells": [_cell(row["cells"][column["key"]], column["unit"]) for column in columns],
    }


def _cell(cell: dict[str, Any], unit: str) -> dict[str, Any]:
    note = ""
    # Counts and sizes have no error: their difference says nothing that the figures don't.
    if cell["half"] is not None and cell["difference"]:
        figure = cell_figure({"mean": abs(cell["difference"])}, unit)
        note = f"{'−' if cell['difference'] < 0 else '+'}{figure.mean}" + (" points" if unit == "percent" else "")
    return {
        "text": cell_text({"mean": cell["mean"], "se": cell["half"], WHY: cell.get(WHY, {})}, unit),
        "why": "; ".join(dict.fromkeys(cell.get(WHY, {}).values())),
        "value": cell["mean"],
        "half": cell["half"],
        "rank": cell["rank"],
        "place": _PLACES.get(cell["rank"]),
        "tied": cell["mark"] == "tied" and cell["half"] is not None,
        "note": note,
    }


def _notes(table: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    notes = [text for key, text in _COLUMN_NOTES.items() if key in [column["key"] for column in table["columns"]]]
    if floor := [row["label"] for row in rows if row["floor"]]:
        notes.append(f"{joined(floor)} is the floor: only the task head was trained, and it does not compete.")
    notes += lacking_notes(table["columns"], rows, "label")
    for row in rows:
        if row["same_as"]:
            pair = f"{row['same_as']} and {row['label']}"
            notes.append(f"{pair} have the same parts: with the same seed they are the same run.")
    if table["shared"]:
        notes.append(f"All runs: {', '.join(f'{name} {value}'.strip() for name, value in table['shared'])}.")
    return notes
