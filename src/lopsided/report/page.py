"""The page: what was gathered becomes one HTML text with its style, its figures and plotly.js inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import plotly.offline

import lopsided
from lopsided.plotting.colours import PATHS
from lopsided.plotting.figure import Figure
from lopsided.plotting.words import joined
from lopsided.report.board_view import BoardView, board_view, sorted_rows
from lopsided.report.figure_list import figures, looks, missing
from lopsided.report.gather import Gathered
from lopsided.report.plain_tables import PlainTable, advice_tables, lab_table, published_table, run_table
from lopsided.report.reported_run import ReportedRun
from lopsided.study.by_task import TaskBoard


def render(gathered: Gathered, *, live: str = "") -> str:
    """Return the whole page as text; every string of `gathered` is escaped.

    Args:
        live: for a served page, the state that it was made of; the page asks for it, and reloads when it is another.
    """
    boards = [_view(board, gathered.runs) for board in gathered.boards]
    return page_text(
        title=gathered.title,
        identity=_identity(gathered),
        styles=looks(gathered.boards, gathered.runs),
        groups=boards,
        tables=[
            *published_table(gathered.boards),
            *lab_table(gathered.lab),
            *advice_tables(gathered.advice),
            run_table(gathered.runs),
        ],
        filters=_filters(gathered.boards),
        live=live,
    )


def page_text(
    *,
    title: str,
    identity: str,
    styles: Mapping[str, Sequence[str]],
    groups: Sequence[BoardView],
    tables: Sequence[PlainTable],
    filters: Sequence[tuple[str, Sequence[str]]] = (),
    live: str = "",
) -> str:
    """Return a page of sections and tables as text; every string is escaped.

    Args:
        title: of the page.
        identity: what it was made of, in a few sentences.
        styles: colour and symbol of every label.
        groups: the sections, with their figures.
        tables: below them.
        filters: names of choices, and what can be chosen.
        live: as for `render`.
    """
    drawn = [{"key": group.key, "figures": [_drawn(figure) for figure in group.figures]} for group in groups]
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            identity=identity,
            live=live,
            looks=styles,
            paths=PATHS,
            filters=filters,
            groups=groups,
            tables=tables,
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


def _ticks(text: str) -> markupsafe.Markup:
    """What stands between backticks, as code; all of it escaped."""
    parts = str(markupsafe.escape(text)).split("`")
    if len(parts) % 2 == 0:
        return markupsafe.Markup("`".join(parts))
    return markupsafe.Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


def _view(board: TaskBoard, runs: Sequence[ReportedRun]) -> BoardView:
    """A section of the page, with its figures."""
    # The best first in every figure and choice, as in the table.
    place = {row.label: number for number, row in enumerate(sorted_rows(board))}
    members = [run for run in runs if run.group == board.key]
    members.sort(key=lambda run: place.get(run.label, len(place)))
    return board_view(board, figures(board, members), missing(members))


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
