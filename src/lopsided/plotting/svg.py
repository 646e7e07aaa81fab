"""Drawings of experiments and advice: what they show, as data, and the SVG files; the same data give the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lopsided.errors import LopsidedError

Style = Literal["line", "points", "bars", "dashed"]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# A line of more points than these has no markers.
MOST_MARKERS = 12


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One curve, set of points or set of bars of a drawing.

    Args:
        x, y: the points.
        low, high: a band around a curve; NaN where there is none.
        style: "line", "dashed", "points", or "bars", whose x are names.
    """

    name: str
    x: list[Any]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    style: Style = "line"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture with two axes, as data.

    Args:
        name: of its file.
        title: what it shows, in one sentence.
        x, y: the titles of the axes.
        log: the axes with a logarithmic scale: "", "x", "y" or "xy".
    """

    name: str
    title: str
    x: str
    y: str
    lines: list[Trace]
    log: Literal["", "x", "y", "xy"] = ""


def check_drawable() -> None:
    """Raise if nothing can be drawn, before the work that a drawing would show.

    Raises:
        LopsidedError: if matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise LopsidedError("plots need matplotlib, which is not installed; pip install 'lopsided[lab]'")


def draw(drawing: Drawing, path: Path) -> None:
    """Write one drawing as SVG; `check_drawable` says whether that is possible."""
    import matplotlib
    from matplotlib.figure import Figure

    # With a fixed salt the ids in the file do not change from call to call.
    settings: dict[str, Any] = {"svg.hashsalt": drawing.name, "svg.fonttype": "none", "font.size": 10}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        bars = [trace for trace in drawing.lines if trace.style == "bars"]
        for number, trace in enumerate(drawing.lines):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            if trace.style == "bars":
                _bars(axes, trace, bars.index(trace), len(bars), colour)
            else:
                _curve(axes, trace, colour, marker)
        for name in drawing.log:
            _logarithmic(axes, name)
        axes.set(xlabel=drawing.x, ylabel=drawing.y)
        axes.set_title(drawing.title, fontsize=10, loc="left", wrap=True)
        axes.grid(alpha=0.25)
        if len(drawing.lines) > 1:
            # Next to the axes, where it hides no point and no title.
            figure.legend(loc="outside right center", fontsize=8, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _curve(axes: Any, trace: Trace, colour: str, marker: str) -> None:
    """A line or points, with a band where the trace has one."""
    stroke = {"line": "-", "dashed": "--", "points": ""}[trace.style]
    symbol = marker if trace.style == "points" or len(trace.x) <= MOST_MARKERS else ""
    axes.plot(trace.x, trace.y, linestyle=stroke, marker=symbol, color=colour, label=trace.name, markersize=4)
    if trace.low is not None and trace.high is not None:
        axes.fill_between(trace.x, trace.low, trace.high, color=colour, alpha=0.18, linewidth=0)


def _logarithmic(axes: Any, name: str) -> None:
    """Make an axis logarithmic; where it spans less than two decades, with ticks at 1, 2 and 5 as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    axes.set(**{f"{name}scale": "log"})
    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _bars(axes: Any, trace: Trace, number: int, count: int, colour: str) -> None:
    """One of `count` groups of bars, side by side at each name, with error bars where the trace has ends."""
    width = 0.8 / count
    places = np.arange(len(trace.x)) + (number - (count - 1) / 2) * width
    spread = None
    if trace.low is not None and trace.high is not None:
        values = np.asarray(trace.y)
        spread = np.abs(np.array([values - np.asarray(trace.low), np.asarray(trace.high) - values]))
    axes.bar(places, trace.y, width, yerr=spread, capsize=2, color=colour, label=trace.name)
    axes.set_xticks(np.arange(len(trace.x)), trace.x, rotation=20 if len(trace.x) > 5 else 0)
