"""What a plot says in words: the costs that a score is plotted against, and two sentences for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lopsided.report.format import cell_text, is_finite
from lopsided.report.notes import joined


@dataclass(frozen=True)
class Axis:
    """A cost to plot the score against, and the words for it."""

    key: str
    title: str
    shows: str
    cheapest: str
    same: str
    log: bool


AXES = (
    Axis(
        key="trained_parameters",
        title="trained parameters",
        shows="further left trains fewer parameters",
        cheapest="the fewest parameters",
        same="train equally many parameters",
        log=True,
    ),
    Axis(
        key="step_ms",
        title="milliseconds a step",
        shows="further left takes less time a step",
        cheapest="the least time a step",
        same="take the same time a step",
        log=False,
    ),
)


def what_it_shows(rows: list[dict[str, Any]], x: dict[str, Any], axis: Axis, y: dict[str, Any]) -> str:
    """How to read the plot of `rows`."""
    better = "higher" if y["better"] == "high" else "lower"
    costs = [row["cells"][x["key"]]["mean"] for row in rows]
    beside = "; methods of equal cost stand side by side" if len(set(costs)) < len(costs) else ""
    floor = "; the dotted line is the floor" if any(row["floor"] for row in rows) else ""
    return (
        f"Each point is one method, with bars of two standard errors: {better} is better, {axis.shows}{beside}{floor}."
    )


def what_it_means(rows: list[dict[str, Any]], x: dict[str, Any], axis: Axis, y: dict[str, Any]) -> str:
    """The cheapest of those that the data can't tell from the best, and what the dearest would cost."""

    def cost(row: dict[str, Any]) -> float:
        return float(row["cells"][x["key"]]["mean"])

    def written(row: dict[str, Any]) -> str:
        unit = " ms" if x["unit"] == "ms" else ""
        return cell_text(row["cells"][x["key"]], x["unit"]) + unit

    def error(row: dict[str, Any]) -> float:
        se = row["cells"][x["key"]].get("se")
        return float(se) if is_finite(se) else 0.0

    leaders = sorted((row for row in rows if row["cells"][y["key"]].get("mark")), key=cost)
    floors = [row["method"] for row in leaders if row["floor"]]
    if not leaders:
        return f"No method here is marked best on {y['title']}, so this plot doesn't choose one."
    if floors:
        return (
            f"The floor, {joined(floors)}, is among the best on {y['title']}, "
            "so these results give no reason to train an adapter at all."
        )
    if len(leaders) == 1:
        return (
            f"{leaders[0]['method']} is best on {y['title']} and nothing ties with it, "
            f"so its cost ({written(leaders[0])}) is what the best score takes here."
        )
    # A measured cost has noise of its own: within two standard errors nobody is cheaper.
    first = leaders[0]
    cheap = [row["method"] for row in leaders if cost(row) - cost(first) <= 2 * math.hypot(error(row), error(first))]
    if len(cheap) == len(leaders):
        return (
            f"The {len(leaders)} methods that are best or tied {axis.same}, so this plot doesn't choose between them."
        )
    verb = "needs" if len(cheap) == 1 else "need"
    return (
        f"Of the {len(leaders)} methods that are best or tied, {joined(cheap)} {verb} {axis.cheapest} "
        f"({written(first)}; {leaders[-1]['method']} needs {written(leaders[-1])}), "
        f"so take a dearer one only for the sake of another column of the table."
    )
