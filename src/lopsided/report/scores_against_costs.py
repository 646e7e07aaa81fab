"""Figure: any two columns of the leaderboard against each other, and the methods that nothing beats on both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lopsided.formatting import joined
from lopsided.plotting.figure import Figure, FigureEntry, RunGroup

# Costs that methods differ in by factors.
LOGARITHMIC = ("trained_parameters", "kept_bytes", "file_bytes")


def draw_pareto(group: RunGroup) -> Figure | None:
    """Draw each method as a point, for each pair of columns."""
    table = group.leaderboard
    if len(table["columns"]) < 2 or len(table["rows"]) < 2:
        return None
    keys = [column["key"] for column in table["columns"]]
    x = "trained_parameters" if "trained_parameters" in keys else keys[0]
    y = "score" if "score" in keys else next(key for key in keys if key != x)
    points = [
        {
            "label": row["label"],
            "floor": row["floor"],
            "cells": {k: [c["mean"], c["half"]] for k, c in row["cells"].items() if k in keys},
        }
        for row in table["rows"]
    ]
    columns = [{**column, "log": column["key"] in LOGARITHMIC} for column in table["columns"]]
    named = {column["key"]: column for column in columns}
    return Figure(
        key=f"{group.key}-pareto",
        kind="pareto",
        title="What a score costs",
        shows=(
            "Each point is one method, the mean over its seeds with its 95 % interval, side by side where they are "
            "equal; the line joins the methods that no other beats on both axes."
        ),
        means=pareto_meaning(front(points, named[x], named[y]), named[x], named[y]),
        views=[{"name": "", "columns": columns, "points": points, "x": x, "y": y}],
    )


def front(points: Sequence[Mapping[str, Any]], x: Mapping[str, Any], y: Mapping[str, Any]) -> list[str]:
    """Return the labels of the points that no other matches on both axes and beats on one, cheapest first.

    The floor is never among them.
    """

    def place(point: Mapping[str, Any]) -> tuple[float, float] | None:
        values = [point["cells"][axis["key"]][0] for axis in (x, y)]
        if None in values:
            return None
        across, up = (v if axis["better"] == "low" else -v for v, axis in zip(values, (x, y)))
        return across, up

    places = {point["label"]: at for point in points if not point["floor"] and (at := place(point)) is not None}
    kept = [
        (at, label)
        for label, at in places.items()
        if not any(o[0] <= at[0] and o[1] <= at[1] and o != at for o in places.values())
    ]
    return [label for _, label in sorted(kept)]


def pareto_meaning(front: Sequence[str], x: Mapping[str, Any], y: Mapping[str, Any]) -> str:
    """Return what follows for choosing a method from those that nothing beats on two columns."""
    if not front:
        return f"No method has both {y['title']} and {x['title']}."
    if len(front) == 1:
        return f"{front[0]} is best on both {y['title']} and {x['title']}, so on these two no other is worth taking."
    return (
        f"On {y['title']} against {x['title']}, choose among {joined(front)}: "
        "every other method is matched or beaten on both by one of these."
    )


FIGURE = FigureEntry(draw=draw_pareto, place=10)
