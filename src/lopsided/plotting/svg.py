"""Plots of experiments as SVG files; the same data give the same file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lopsided.errors import LopsidedError
from lopsided.lab.protocol import Line, Plot

# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def check_drawable() -> None:
    """Raise if plots can't be drawn, before the work that they would show.

    Raises:
        LopsidedError: if matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise LopsidedError("plots need matplotlib, which is not installed; pip install 'lopsided[lab]'")


def draw(plot: Plot, path: Path) -> None:
    """Write one plot as SVG; needs what `check_drawable` asks for."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[str, Any] = {"svg.hashsalt": plot.name, "svg.fonttype": "none", "font.size": 10}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        bars = [line for line in plot.lines if line.style == "bars"]
        for number, line in enumerate(plot.lines):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            if line.style == "bars":
                _bars(axes, line, bars.index(line), len(bars), colour)
                continue
            joined = {"line": "-", "dashed": "--", "points": ""}[line.style]
            shown = marker if line.style == "points" or len(line.x) <= 12 else ""
            axes.plot(line.x, line.y, linestyle=joined, marker=shown, color=colour, label=line.name, markersize=4)
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        for name in plot.log:
            _logarithmic(axes, name)
        axes.set(xlabel=plot.x, ylabel=plot.y)
        axes.set_title(plot.title, fontsize=10, loc="left", wrap=True)
        axes.grid(alpha=0.25)
        if len(plot.lines) > 1:
            # Beside the axes, where it hides no point and no title.
            figure.legend(loc="outside right center", fontsize=8, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _logarithmic(axes: Any, name: str) -> None:
    """A logarithmic axis; where it spans less than two decades, with ticks at 1, 2 and 5 as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = {"x": axes.xaxis, "y": axes.yaxis}[name]
    axes.set(**{f"{name}scale": "log"})
    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _bars(axes: Any, line: Line, number: int, count: int, colour: str) -> None:
    width = 0.8 / count
    places = np.arange(len(line.x)) + (number - (count - 1) / 2) * width
    spread = None
    if line.low is not None and line.high is not None:
        values = np.asarray(line.y)
        spread = np.abs(np.array([values - np.asarray(line.low), np.asarray(line.high) - values]))
    axes.bar(places, line.y, width, yerr=spread, capsize=2, color=colour, label=line.name)
    axes.set_xticks(np.arange(len(line.x)), line.x, rotation=20 if len(line.x) > 5 else 0)
