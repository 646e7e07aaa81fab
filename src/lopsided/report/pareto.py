"""Figure: scores against costs, which are any two columns of a leaderboard, and the front of the methods shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lopsided.plotting.figure import Figure, FigureEntry, RunGroup
from lopsided.plotting.words import joined
from lopsided.study.board_rows import Row
from lopsided.study.columns import SCORE, Column
from lopsided.study.front import contenders, front
from lopsided.study.leaderboard import Leaderboard

COST = "trained_parameters"
SHOWS = (
    "Each point is one method, the mean over its seeds with its 95 % interval, side by side where they are equal; "
    "the line joins the methods that no other beats on both axes."
)
NONE = "No method has both {y} and {x}."
# The browser writes these again when a reader chooses other axes or hides methods.
WORDS = {
    "none": "No method shown has both {y} and {x}.",
    "one": "{front} is best on both {y} and {x}, so on these two no other is worth taking.",
    "several": (
        "On {y} against {x}, choose among {front}: every other method is matched or beaten on both by one of these."
    ),
}


def draw_pareto(group: RunGroup[Leaderboard]) -> Figure | None:
    """Draw two columns against each other; None where there are not two columns and two methods."""
    columns, rows = group.leaderboard.columns, group.leaderboard.rows
    if len(columns) < 2 or len(rows) < 2:
        return None
    by_key = {column.key: column for column in columns}
    x = by_key.get(COST, columns[0])
    y = by_key.get(SCORE) or next(column for column in columns if column is not x)
    view = {
        "name": "",
        "columns": [{**column.to_json(), "log": column.logarithmic} for column in columns],
        "points": [_point(row, columns) for row in rows],
        "x": x.key,
        "y": y.key,
        "fronts": _fronts(rows, columns),
        "words": WORDS,
    }
    return Figure(
        key=f"{group.key}-pareto",
        kind="pareto",
        title="What a score costs",
        shows=SHOWS,
        means=pareto_meaning(front(contenders(rows, x, y)), x.title, y.title),
        views=[view],
    )


def pareto_meaning(labels: Sequence[str], x: str, y: str) -> str:
    """Say which methods to choose among, from the front and the titles of the axes."""
    if not labels:
        return NONE.format(x=x, y=y)
    return WORDS["one" if len(labels) == 1 else "several"].format(front=joined(labels), x=x, y=y)


def _point(row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    cells = {column.key: row.cells[column.key] for column in columns}
    return {
        "label": row.label,
        "floor": row.floor,
        "cells": {key: [cell.mean, cell.half] for key, cell in cells.items()},
    }


def _fronts(rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, dict[str, list[list[Any]]]]:
    """For every two columns, by key: who competes, best on the first column first, each with those that beat it.

    A reader may hide methods: the front is then the methods that no shown method beats. Methods are numbered as the
    points are.
    """
    number = {row.label: place for place, row in enumerate(rows)}
    return {
        x.key: {
            y.key: [
                [number[contender.label], [number[label] for label in contender.beaten_by]]
                for contender in contenders(rows, x, y)
            ]
            for y in columns
        }
        for x in columns
    }


FIGURE = FigureEntry(draw=draw_pareto, place=10)
