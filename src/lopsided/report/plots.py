"""The report's two plots: the score against what a method trains, and against what a step costs.

A figure leaves here without names on its points: how wide a label is, is known only where it is
drawn, so script.html places them. Colours of text and grid come from report.css (light, dark, print).
"""

from __future__ import annotations

import html
import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lopsided.report.format import cell_text, is_finite
from lopsided.report.notes import grouped, has_failed, joined
from lopsided.report.reading import AXES, Axis, what_it_means, what_it_shows

# Six hues that stay apart for the common kinds of colour blindness (after Okabe and Ito 2008), each with
# at least 3:1 of contrast on the page's white and on its near-black. Six and seven have no common divisor:
# the first 42 methods differ in colour, symbol or both, and neighbours differ in both.
COLOURS = ("#2f7fc1", "#d1600a", "#0f9670", "#b0609c", "#94801d", "#cf4257")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down")
FLOOR_COLOUR, FLOOR_SYMBOL = "#7d838c", "x"
# For an exported image; on the page report.css overrides it with the page's own ink.
MID_TONE = "#747b86"
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"


@dataclass(frozen=True)
class Plot:
    """One plot as the page shows it.

    Args:
        key: names the plot in the page.
        figure: plotly's JSON, or None where no method has both figures.
        labels: the methods' names and places, in plot coordinates, for script.html.
        sentences: what it shows, and what that means for choosing.
        left_out: the methods that are not in it and why, or "".
    """

    key: str
    title: str
    figure: dict[str, Any] | None
    labels: list[dict[str, Any]]
    sentences: tuple[str, ...]
    left_out: str


def plots(results: dict[str, Any]) -> list[Plot]:
    """The two plots of `results`, with the same colour and symbol for a method in both."""
    columns = {column["key"]: column for column in results["columns"]}
    return [_plot(results, columns.get("score"), columns.get(axis.key), axis) for axis in AXES]


def styles(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Colour and symbol of every method, by its place among the rows; the floor is always grey."""
    methods, floor = grouped(results)
    looks = {row["method"]: (COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]) for i, row in enumerate(methods)}
    return looks | {row["method"]: (FLOOR_COLOUR, FLOOR_SYMBOL) for row in floor}


def _plot(results: dict[str, Any], y: dict[str, Any] | None, x: dict[str, Any] | None, axis: Axis) -> Plot:
    key = f"by-{axis.key.replace('_', '-')}"
    if y is None or x is None:
        missing = "score" if y is None else axis.key
        text = f"These results have no column {missing}, so there is nothing to plot against."
        return Plot(key, f"Score against {axis.title}", None, [], (text,), "")
    title = f"{y['title'][:1].upper()}{y['title'][1:]} against {axis.title}"
    rows = [row for row in results["rows"] if _reason_left_out(row, x, axis, y) is None]
    left_out = _left_out(results, x, axis, y)
    if not rows:
        text = f"No method has both {y['title']} and {x['title']}, so there is nothing to plot."
        return Plot(key, title, None, [], (text,), left_out)
    at = _side_by_side([row["cells"][x["key"]]["mean"] for row in rows], axis.log)
    figure = _figure(rows, at, x, axis, y, styles(results))
    labels = [{"name": row["method"], "x": place, "y": _scaled(row, y, "mean")} for row, place in zip(rows, at)]
    sentences = (what_it_shows(rows, x, axis, y), what_it_means(rows, x, axis, y))
    return Plot(key, title, figure, labels, sentences, left_out)


def _figure(
    rows: list[dict[str, Any]],
    at: list[float],
    x: dict[str, Any],
    axis: Axis,
    y: dict[str, Any],
    looks: dict[str, tuple[str, str]],
) -> dict[str, Any]:
    figure = go.Figure(
        [_trace(row, place, x, y, *looks[row["method"]]) for row, place in zip(rows, at)],
        layout=_layout(rows, at, x, axis, y),
    )
    dotted = {"color": FLOOR_COLOUR, "dash": "dot", "width": 1}
    for row in rows:
        if row["floor"]:
            figure.add_hline(y=_scaled(row, y, "mean"), line=dotted, layer="below")
    plain: dict[str, Any] = json.loads(figure.to_json())
    return plain


def _trace(
    row: dict[str, Any], place: float, x: dict[str, Any], y: dict[str, Any], colour: str, symbol: str
) -> go.Scatter:
    """One method: a point, two standard errors each way, and what hovering over it says."""
    x_cell, y_cell = row["cells"][x["key"]], row["cells"][y["key"]]
    name = _escaped(row["method"])
    lines = [f"<b>{name}</b>" + (f" ({y_cell['mark']})" if y_cell.get("mark") else "")]
    lines += [f"{_escaped(c['title'])}: {cell_text(row['cells'][c['key']], c['unit'])}" for c in (y, x)]
    if row.get("trains"):
        lines.append(f"trains {_escaped(str(row['trains']))}")
    bar = {"color": _faint(colour), "thickness": 1.5, "width": 3}
    return go.Scatter(
        x=[place],
        y=[_scaled(row, y, "mean")],
        error_x={"array": [2 * x_cell["se"]], **bar} if is_finite(x_cell.get("se")) else None,
        error_y={"array": [2 * _scaled(row, y, "se")], **bar} if is_finite(y_cell.get("se")) else None,
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 11},
        name=name,
        hovertext=["<br>".join(lines)],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _layout(
    rows: list[dict[str, Any]], at: list[float], x: dict[str, Any], axis: Axis, y: dict[str, Any]
) -> dict[str, Any]:
    y_low, y_high = _span([_scaled(row, y, "mean") for row in rows], [_scaled(row, y, "se") for row in rows])
    if axis.log:
        # At least a decade, so that equal costs still get an axis with ticks.
        x_low, x_high = _span([math.log10(place) for place in at], [None] * len(at), least=1.0)
    else:
        x_low, x_high = _span(at, [row["cells"][x["key"]].get("se") for row in rows])
    lines = {"zeroline": False, "showline": False, "gridcolor": "rgba(128,134,145,0.28)", "automargin": True}
    x_title = {"text": axis.title, "standoff": 14}
    x_axis: dict[str, Any] = {**lines, "title": x_title, "range": [x_low, x_high]}
    if axis.log:
        ticks = _log_ticks(x_low, x_high)
        x_axis |= {"type": "log", "tickvals": ticks, "ticktext": [_short_count(tick) for tick in ticks]}
    y_axis = {**lines, "title": {"text": _escaped(y["title"]), "standoff": 10}, "range": [y_low, y_high]}
    if y["unit"] == "percent":
        y_axis["ticksuffix"] = " %"
    return {
        "xaxis": x_axis,
        "yaxis": y_axis,
        "showlegend": False,
        "template": None,
        "font": {"color": MID_TONE, "size": 13, "family": FONT},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MID_TONE, "activecolor": MID_TONE},
        "margin": {"l": 56, "r": 16, "t": 12, "b": 52},
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "#20242b",
            "bordercolor": "#20242b",
            "font": {"color": "#ffffff", "family": FONT},
            "align": "left",
        },
    }


def _side_by_side(costs: list[float], log: bool) -> list[float]:
    """Move methods of exactly equal cost a little apart, or their points and bars hide each other.

    The step is 1.8 % of the axis, and less where the next cost is near: a group takes at most half of
    the way to its neighbour.
    """
    places = [math.log10(cost) if log else cost for cost in costs]
    distinct = sorted(set(places))
    gaps = [after - before for before, after in itertools.pairwise(distinct)]
    axis = distinct[-1] - distinct[0] or (0.6 if log else abs(distinct[0]) or 1.0)
    moved = list(places)
    for i, place in enumerate(distinct):
        members = [j for j, other in enumerate(places) if other == place]
        room = min(gaps[max(i - 1, 0) : i + 1], default=axis)
        step = min(0.018 * axis, 0.5 * room / len(members))
        for k, j in enumerate(members):
            moved[j] = place + step * (k - (len(members) - 1) / 2)
    return [10**place if log else place for place in moved]


def _escaped(text: str) -> str:
    """Plotly reads a few HTML tags and entities in its texts (and not &quot;), JSON's escaping aside."""
    return html.escape(text, quote=False)


def _faint(colour: str) -> str:
    """The colour at half strength, for error bars, as plotly writes it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.5)"


def _span(means: list[float], ses: list[float | None], least: float = 0.0) -> tuple[float, float]:
    """A range that holds every mean with two standard errors, has air for labels, and is `least` wide."""
    bars = [2 * se if is_finite(se) else 0.0 for se in ses]
    low = min(mean - bar for mean, bar in zip(means, bars))
    high = max(mean + bar for mean, bar in zip(means, bars))
    air = max(0.1 * (high - low), (least - (high - low)) / 2) or 0.1 * abs(high) or 1.0
    return low - air, high + air


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between 10**low and 10**high, at most seven where powers of ten allow it."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        decades = range(math.floor(low), math.ceil(high) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) <= 7:
            break
    return ticks


def _short_count(value: float) -> str:
    """
    Example:
        >>> _short_count(20000.0), _short_count(5e6), _short_count(200.0)
        ('20k', '5M', '200')
    """
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def _scaled(row: dict[str, Any], y: dict[str, Any], part: str) -> Any:
    """The score's mean or standard error in the unit of the axis: percents are stored as fractions."""
    value = row["cells"][y["key"]].get(part)
    return 100 * value if y["unit"] == "percent" and is_finite(value) else value


def _reason_left_out(row: dict[str, Any], x: dict[str, Any], axis: Axis, y: dict[str, Any]) -> str | None:
    if has_failed(row):
        return "failed" if row["status"] == "failed" else str(row["status"])
    for column in (y, x):
        if not is_finite(row["cells"].get(column["key"], {}).get("mean")):
            return f"no figure for {column['title']}"
    if axis.log and row["cells"][x["key"]]["mean"] <= 0:
        return f"{x['title']} is zero, which a logarithmic axis can't show"
    return None


def _left_out(results: dict[str, Any], x: dict[str, Any], axis: Axis, y: dict[str, Any]) -> str:
    reasons = [(row["method"], _reason_left_out(row, x, axis, y)) for row in results["rows"]]
    out = [f"{method} ({reason})" for method, reason in reasons if reason is not None]
    return f"Left out of this plot: {joined(out)}." if out else ""
