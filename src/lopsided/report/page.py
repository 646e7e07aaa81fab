"""The page: what was gathered becomes one HTML text with its style, its figures and plotly.js inside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import plotly.offline

import lopsided
from lopsided.formatting import joined
from lopsided.plotting.colours import PATHS
from lopsided.plotting.figure import Figure
from lopsided.report.board_view import BoardView, board_view, sorted_rows
from lopsided.report.figures import figures, looks, missing
from lopsided.report.gather import Gathered
from lopsided.report.pareto import pareto
from lopsided.report.plain_tables import advice_tables, lab_table, run_table
from lopsided.study.by_task import TaskBoard


def render(gathered: Gathered, *, live: str = "") -> str:
    """Return the whole page as text; every string of `gathered` is escaped.

    Args:
        live: for a served page, the state that it was made of; the page asks for it, and reloads when it is another.
    """
    plain = gathered.to_json()
    styles = looks(plain["groups"], plain["runs"])
    boards = [_view(board, table, plain["runs"]) for board, table in zip(gathered.boards, plain["groups"])]
    drawn = [{"key": board.key, "figures": [_drawn(figure) for figure in board.figures]} for board in boards]
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=gathered.title,
            identity=_identity(gathered),
            live=live,
            looks=styles,
            paths=PATHS,
            filters=_filters(gathered.boards),
            groups=boards,
            tables=[*lab_table(plain["lab"]), *advice_tables(plain["advice"]), run_table(gathered.runs)],
            data={"looks": styles, "groups": drawn},
            plotly_js=plotly.offline.get_plotlyjs(),
        )
    )


def _environment() -> jinja2.Environment:
    files = resources.files(__package__) / "web"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ticks"] = _ticks
    return environment


def write_atomically(text: str, path: Path) -> None:
    """Write a text to a file, whole or not at all: to a temporary file in the same folder, which is then renamed."""
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


def _ticks(text: str) -> markupsafe.Markup:
    """What stands between backticks, as code; all of it escaped."""
    parts = str(markupsafe.escape(text)).split("`")
    if len(parts) % 2 == 0:
        return markupsafe.Markup("`".join(parts))
    return markupsafe.Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


def _view(board: TaskBoard, table: dict[str, Any], runs: list[dict[str, Any]]) -> BoardView:
    """A section of the page, with its figures.

    Args:
        table, runs: the board and all runs as plain data, which the figures are made of.
    """
    # The best first in every figure and choice, as in the table.
    place = {row.label: number for number, row in enumerate(sorted_rows(board))}
    members = [run for run in runs if run["group"] == board.key]
    members.sort(key=lambda run: place.get(run["label"], len(place)))
    costs = pareto(board)
    drawn = [*([] if costs is None else [costs]), *figures(table, members)]
    return board_view(board, drawn, missing(members))


def _drawn(figure: Figure) -> dict[str, Any]:
    """What plots.js needs of a figure: its words are in the page already."""
    return {
        "key": figure.key,
        "kind": figure.kind,
        "title": figure.title,
        "choose": figure.choose,
        "views": figure.views,
    }


def _identity(gathered: Gathered) -> str:
    finished = sum(run.run.is_finished for run in gathered.runs)
    other = len(gathered.runs) - finished
    parts = [f"{finished} finished run{'' if finished == 1 else 's'}"]
    parts += [f"{other} that failed or did not finish"] if other else []
    text = f"{joined(parts)}, put together by lopsided {lopsided.__version__}."
    if gathered.not_finite:
        text += f" {gathered.not_finite} of their numbers are not finite, and are gaps here."
    return " ".join([text, *gathered.notes])


def _filters(boards: Sequence[TaskBoard]) -> list[tuple[str, list[str]]]:
    choices = (("model", [board.model for board in boards]), ("task", [board.task for board in boards]))
    distinct = [(name, list(dict.fromkeys(values))) for name, values in choices]
    return [(name, values) for name, values in distinct if len(values) > 1]
