"""Draw the pictures of docs/concepts: `python docs/draw_concepts.py` writes docs/images/concept-*.svg.

Measured figures come from the lab's committed results, columns from the library's own sketches. Each picture brings its
own light ground, so that it reads the same on a dark page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from lopsided.method import METHODS

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
GROUND, INK, SOFT, GRID = "#fbfaf7", "#22272e", "#5b6570", "#d9dcd8"
FROZEN, TRAINED, OTHER, BOUND = "#aab4bf", "#c8501e", "#2f6690", "#6b4e9b"
# Colours of links, told apart in grey as well.
LINKS = ("#c8501e", "#e3a13b", "#4f8f6b", "#2f6690")


def lab(name: str) -> dict[str, Any]:
    """Return the committed result of an experiment of the lab."""
    result: dict[str, Any] = json.loads((ROOT / "docs" / "lab" / name / "result.json").read_text(encoding="utf-8"))
    return result


def lines_of(name: str, plot: str) -> dict[str, dict[str, Any]]:
    """Return the lines of one plot of an experiment, by their names."""
    [found] = [each for each in lab(name)["plots"] if each["name"] == plot]
    return {line["name"]: line for line in found["lines"]}


@dataclass
class Canvas:
    """SVG text in the making."""

    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, words: str, *, size: float = 13, anchor: str = "middle", ink: str = INK, **more: str
    ) -> None:
        """Write words, whose baseline is at y."""
        extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{ink}"'
        self.parts.append(f"<text {place}{extra}>{escape(words)}</text>")

    def box(self, x: float, y: float, width: float, height: float, fill: str, *, line: str = "none") -> None:
        """Fill a rectangle."""
        size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        self.parts.append(f'<rect {size} fill="{fill}" stroke="{line}"/>')

    def path(self, points: Sequence[tuple[float, float]], ink: str, *, width: float = 1.0, dashes: str = "") -> None:
        """Draw straight lines from point to point."""
        way = " ".join(f"{'L' if i else 'M'}{x:.1f},{y:.1f}" for i, (x, y) in enumerate(points))
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(f'<path d="{way}" fill="none" stroke="{ink}" stroke-width="{width:g}"{dashed}/>')

    def dot(self, x: float, y: float, fill: str, *, radius: float = 4.5) -> None:
        """Draw a point."""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}"/>')

    def svg(self, title: str) -> str:
        """Return the whole picture."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
        ground = f'<rect width="{self.width}" height="{self.height}" rx="8" fill="{GROUND}"/>'
        opening = f'{head}font-family="sans-serif" role="img">\n<title>{escape(title)}</title>'
        return "\n".join([opening, ground, *self.parts, "</svg>"]) + "\n"


@dataclass
class Chart:
    """Axes on a canvas: data come in their own units.

    Args:
        left, top, width, height: of the area inside the axes.
        x, y: the ranges; both ends of a logarithmic one are above zero.
        log: "x", "y" or "xy" for logarithmic axes.
    """

    canvas: Canvas
    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    log: str = ""

    def across(self, value: float) -> float:
        """Return where a value of x is."""
        return self.left + self.width * _share(value, self.x, "x" in self.log)

    def up(self, value: float) -> float:
        """Return where a value of y is."""
        return self.top + self.height * (1 - _share(value, self.y, "y" in self.log))

    def axes(self, title: str, xs: Sequence[tuple[float, str]], ys: Sequence[tuple[float, str]], label: str) -> None:
        """Draw the ground of the chart: its title, ticks with their words, and what x is."""
        canvas, bottom = self.canvas, self.top + self.height
        canvas.text(self.left, self.top - 14, title, size=13.5, anchor="start", font_weight="bold")
        for value, words in ys:
            canvas.path([(self.left, self.up(value)), (self.left + self.width, self.up(value))], GRID)
            canvas.text(self.left - 8, self.up(value) + 4, words, size=12, anchor="end", ink=SOFT)
        for value, words in xs:
            canvas.text(self.across(value), bottom + 18, words, size=12, ink=SOFT)
        canvas.path([(self.left, bottom), (self.left + self.width, bottom)], SOFT)
        canvas.text(self.left + self.width / 2, bottom + 38, label, size=12.5, ink=INK)

    def line(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        ink: str,
        *,
        dots: bool = True,
        dashes: str = "",
        width: float = 2.2,
    ) -> None:
        """Draw a line, with a dot per value."""
        points = [(self.across(x), self.up(y)) for x, y in zip(xs, ys, strict=True)]
        self.canvas.path(points, ink, width=width, dashes=dashes)
        for x, y in points if dots else []:
            self.canvas.dot(x, y, ink, radius=3.6)

    def bar(self, middle: float, value: float, ink: str, *, width: float, ends: tuple[float, float] | None) -> None:
        """Draw a bar around a place of the canvas, with its interval."""
        bottom = self.top + self.height
        self.canvas.box(middle - width / 2, self.up(value), width, bottom - self.up(value), ink)
        if ends is not None:
            self.interval(middle, ends)

    def interval(self, middle: float, ends: tuple[float, float]) -> None:
        """Draw an interval of y at a place of the canvas."""
        low, high = (self.up(end) for end in ends)
        self.canvas.path([(middle, low), (middle, high)], INK, width=1.6)
        for y in (low, high):
            self.canvas.path([(middle - 5, y), (middle + 5, y)], INK, width=1.6)


def _share(value: float, ends: tuple[float, float], log: bool) -> float:
    low, high, at = (math.log(v) if log else v for v in (*ends, value))
    return (at - low) / (high - low)


def asymmetry() -> str:
    """Draw the two factors, and how alike those of two runs are."""
    canvas = Canvas(760, 330)
    canvas.text(30, 34, "One layer: ΔW = s·B·A", size=13.5, anchor="start", font_weight="bold")
    canvas.box(40, 70, 110, 130, "#e6e9ea", line=SOFT)
    canvas.text(95, 132, "W0")
    canvas.text(95, 150, "frozen", size=12, ink=SOFT)
    canvas.text(168, 140, "+", size=18)
    canvas.box(186, 70, 26, 130, TRAINED)
    canvas.text(199, 222, "B learns", size=12)
    canvas.box(222, 70, 110, 26, FROZEN)
    canvas.text(277, 88, "A", size=13)
    canvas.text(277, 114, "drawn once,", size=12, ink=SOFT)
    canvas.text(277, 130, "then frozen", size=12, ink=SOFT)
    canvas.text(30, 262, "B decides what is added to the outputs,", size=12.5, anchor="start")
    canvas.text(30, 280, "A which r directions of the inputs are seen.", size=12.5, anchor="start")
    chart = Chart(canvas, 420, 50, 320, 190, (0, 1), (0.01, 1), "y")
    chart.axes("How alike two runs' factors are", [], [(0.01, "0.01"), (0.1, "0.1"), (1, "1")], "")
    lines = lines_of("factor-similarity", "similarity")
    for number, what in enumerate(lines["B"]["x"][:3]):
        middle = chart.left + chart.width * (number + 0.5) / 3
        for name, ink, aside in (("B", TRAINED, -20), ("A", FROZEN, 20)):
            line = lines[name]
            # No bars: on a logarithmic axis their lengths mean nothing.
            canvas.dot(middle + aside, chart.up(line["y"][number]), ink, radius=8)
            chart.interval(middle + aside, (line["low"][number], line["high"][number]))
            canvas.text(middle + aside, 255, name, size=12, ink=SOFT)
        for row, words in enumerate(what.split("\n")):
            canvas.text(middle, 273 + 16 * row, words, size=12)
    chance = lab("factor-similarity")["details"]["random pairs"]
    chart.canvas.path([(420, chart.up(chance)), (740, chart.up(chance))], INK, width=1.3, dashes="5 4")
    canvas.text(412, chart.up(chance) + 4, "chance", size=12, anchor="end")
    return canvas.svg("B learns next to a frozen A; learned B's agree between runs, learned A's follow their start")


def least_squares() -> str:
    """Draw how often training B wins over training A in least squares, by the width over the rank."""
    canvas = Canvas(760, 320)
    chart = Chart(canvas, 70, 50, 430, 200, (2, 32), (0, 1), "x")
    ticks = [(v, f"{v}") for v in (2, 4, 8, 16, 32)]
    title = "Share of draws in which training B leaves the smaller loss"
    chart.axes(title, ticks, [(0, "0"), (0.5, "0.5"), (1, "1")], "width over rank, d/r")
    words = {
        "steep": ("inputs vary unequally, steeply", LINKS[0]),
        "mild": ("inputs vary unequally, mildly", LINKS[1]),
        "equal": ("inputs vary equally", FROZEN),
        "low-variance": ("the update sits where inputs hardly vary", LINKS[3]),
    }
    heights = {"steep": 60, "mild": 80, "equal": 152, "low-variance": 250}
    for name, line in lines_of("least-squares", "wins").items():
        label, ink = words[name]
        chart.line(line["x"], line["y"], ink, dashes="6 4" if name == "equal" else "")
        canvas.dot(518, heights[name] - 4, ink)
        canvas.text(530, heights[name], label, size=12, anchor="start")
    return canvas.svg("Training B wins the more surely the larger d/r, unless the update avoids the inputs' variance")


def chains() -> str:
    """Draw four links: what is merged, what is drawn, and the rank that grows."""
    canvas = Canvas(760, 350)
    canvas.text(30, 34, "A chain of four links at rank r", size=13.5, anchor="start", font_weight="bold")
    for number, ink in enumerate(LINKS):
        left = 40 + 180 * number
        canvas.text(left, 64, f"link {number}", size=13, anchor="start", font_weight="bold")
        canvas.box(left, 80, 84, 84, "#e6e9ea", line=SOFT)
        # What earlier links have left in the weights.
        for past in range(number):
            canvas.box(left + 6, 86 + 12 * past, 72, 8, LINKS[past])
        canvas.text(left + 42, 152, "W0" if number == 0 else f"W{number}", size=13)
        canvas.text(left + 96, 126, "+", size=16)
        canvas.box(left + 108, 80, 12, 84, ink)
        canvas.box(left + 124, 80, 40, 12, FROZEN)
        canvas.text(left + 114, 180, f"B{number}", size=12)
        canvas.text(left + 146, 108, f"A{number}", size=12, ink=SOFT)
        if number < 3:
            canvas.path([(left + 114, 187), (left + 114, 206), (left + 222, 206), (left + 222, 176)], SOFT, width=1.4)
            canvas.path([(left + 217, 183), (left + 222, 175), (left + 227, 183)], SOFT, width=1.4)
            canvas.text(left + 150, 224, "merge, draw A again, B = 0", size=11.5, ink=SOFT)
    chart = Chart(canvas, 40, 262, 700, 52, (0, 4), (0, 4))
    for number, ink in enumerate(LINKS):
        left, right = chart.across(number), chart.across(number + 1)
        canvas.box(left, chart.up(number + 1), right - left - 2, chart.up(0) - chart.up(number + 1), ink)
        canvas.text((left + right) / 2, 332, f"rank of ΔW: {number + 1}r" if number else "rank of ΔW: r", size=12)
    return canvas.svg("Each link is merged into the weights; the next one draws A again and starts B at zero")


def digits() -> str:
    """Draw what a chain wins back at rank 1 on digits."""
    canvas = Canvas(760, 320)
    lines = lines_of("digits-chain", "methods")
    names = next(iter(lines.values()))["x"]
    words = {
        "asym": ("asymmetric LoRA", "one frozen factor"),
        "lora": ("LoRA", "both learn"),
        "rac": ("RAC-LoRA", "a chain of the first"),
        "cola": ("COLA", "a chain of LoRA"),
        "full": ("full", "all weights"),
    }
    chart = Chart(canvas, 70, 50, 660, 190, (0, 1), (0, 100))
    chart.axes("Test accuracy on new digits at rank 1, %", [], [(v, f"{v}") for v in (0, 25, 50, 75, 100)], "")
    for number, name in enumerate(names):
        middle = chart.left + chart.width * (number + 0.5) / len(names)
        for line, ink, aside in zip(lines.values(), (TRAINED, OTHER), (-24, 24)):
            ends = None if line["low"] is None else (line["low"][number], min(100.0, line["high"][number]))
            chart.bar(middle + aside, line["y"][number], ink, width=40, ends=ends)
        for row, part in enumerate(words[name]):
            canvas.text(middle, 260 + 15 * row, part, size=12, ink=INK if row == 0 else SOFT)
    for number, (label, ink) in enumerate(zip(lines, (TRAINED, OTHER))):
        canvas.box(70 + 220 * number, 294, 12, 12, ink)
        canvas.text(88 + 220 * number, 305, label, size=12, anchor="start")
    return canvas.svg("At rank 1 a chain of links wins back most of what one low-rank update loses")


def selectors() -> str:
    """Draw which columns each link reads, by the library's own sketches."""
    rank, columns, links = 4, 24, 6
    shown = {
        "cla": "the first r, always",
        "rcla": "r at random, always the same",
        "c3la": "the next window at each link",
        "rc3la": "disjoint windows in a shuffled order",
        "cpaca": "r at random, again at each link",
    }
    canvas = Canvas(760, 46 + 112 * len(shown))
    canvas.text(
        30, 30, f"Columns that are read: r = {rank} of d = {columns}", size=13.5, anchor="start", font_weight="bold"
    )
    for row, (name, words) in enumerate(shown.items()):
        top, sketch = 48 + 112 * row, METHODS[name].sketch
        canvas.text(30, top + 26, name, size=14, anchor="start", font_weight="bold")
        for number, part in enumerate(_two_lines(words)):
            canvas.text(30, top + 46 + 16 * number, part, size=12, anchor="start", ink=SOFT)
        chained = METHODS[name].chain is not None
        read: set[int] = set()
        for link in range(links):
            chosen = {int(c) for c in sketch.indices(rank, columns, seed=0, link=link if chained else 0)}
            read |= chosen
            for column in range(columns):
                fill = TRAINED if column in chosen else "#e9ebe9"
                canvas.box(170 + 17 * column, top + 15 * link, 15, 13, fill)
        canvas.text(590, top + 10, "link 0", size=11, anchor="start", ink=SOFT)
        canvas.text(590, top + 10 + 15 * (links - 1), f"link {links - 1}", size=11, anchor="start", ink=SOFT)
        canvas.text(650, top + 40, f"{len(read)} of {columns}", size=14, anchor="start", font_weight="bold")
        canvas.text(650, top + 58, "columns read", size=12, anchor="start", ink=SOFT)
    return canvas.svg(f"Which {rank} of {columns} columns each selector reads over {links} links")


def _two_lines(words: str) -> list[str]:
    half = words.split(", ") if ", " in words else [words]
    if len(half) == 1 and len(words) > 20:
        parts = words.split(" ")
        return [" ".join(parts[:3]), " ".join(parts[3:])]
    return half


def descent() -> str:
    """Draw the share of the first gap that chains of selectors leave, and what a fixed window leaves."""
    canvas = Canvas(760, 330)
    lines = lines_of("sketches", "descent")
    chart = Chart(canvas, 80, 50, 450, 210, (0, 160), (1e-6, 1), "y")
    ticks = [(v, f"{v}") for v in (0, 40, 80, 120, 160)]
    chart.axes(
        "Share of the first gap that is left",
        ticks,
        [(1e-6, "0.0001 %"), (1e-4, "0.01 %"), (1e-2, "1 %"), (1, "100 %")],
        "links",
    )
    inks = (FROZEN, *LINKS)
    words = {
        "Gaussian": "dense, drawn each link",
        "columns": "columns, drawn each link",
        "shuffled": "windows, shuffled",
    }
    words |= {"cyclic": "windows, in turn", "fixed": "one window for all links"}
    for number, (name, line) in enumerate(lines.items()):
        # The line below of two that lie on each other is the wider one.
        width = 7 if name in ("Gaussian", "shuffled") else 2.2
        chart.line(line["x"], line["y"], inks[number], dots=False, width=width)
        canvas.path([(550, 66 + 24 * number), (574, 66 + 24 * number)], inks[number], width=width)
        canvas.text(584, 70 + 24 * number, words[name], size=12.5, anchor="start")
    return canvas.svg("Selectors that move on converge as a dense random sketch does; a fixed window stalls")


def bounds() -> str:
    """Draw the measured gap of single runs by rank and by samples, with the explicit bound."""
    canvas = Canvas(760, 340)
    for left, plot, ends, label in (
        (70, "ranks", (1, 16), "rank r, with 512 samples"),
        (450, "samples", (64, 2048), "samples N, at rank 4"),
    ):
        lines = lines_of("sample-complexity", plot)
        xs = lines["largest gap found"]["x"]
        chart = Chart(canvas, left, 50, 280, 210, ends, (0.01, 10), "xy")
        ys = [(v, f"{v:g}") for v in (0.01, 0.1, 1, 10)]
        chart.axes("Gap of the loss, which lies in 0 to 1", [(x, f"{x:g}") for x in xs], ys, label)
        chart.line(xs, lines["explicit bound"]["y"], BOUND)
        chart.line(xs, lines["largest gap found"]["y"], TRAINED)
        canvas.path([(left, chart.up(1)), (left + 280, chart.up(1))], INK, width=1.3, dashes="5 4")
    for number, (words, ink) in enumerate((("explicit bound", BOUND), ("largest gap found", TRAINED))):
        canvas.dot(200 + 190 * number, 322, ink)
        canvas.text(212 + 190 * number, 326, words, size=12.5, anchor="start")
    return canvas.svg("Bound and gap have one shape in r and N; above the dashed line a bound says nothing")


def bounds_and_gaps() -> str:
    """Draw the information bound of ten methods next to the gap that was measured."""
    canvas = Canvas(760, 340)
    chart = Chart(canvas, 80, 50, 430, 220, (60, 1500), (0, 0.4), "x")
    ys = [(v, f"{v:g}") for v in (0, 0.1, 0.2, 0.3, 0.4)]
    chart.axes("Gap that was measured, nats", [(v, f"{v:g}") for v in (100, 300, 1000)], ys, "information bound, nats")
    inks = dict(zip(lines_of("bounds-vs-gap", "bound"), (INK, OTHER, LINKS[2], TRAINED, LINKS[1])))
    for number, (name, line) in enumerate(lines_of("bounds-vs-gap", "bound").items()):
        for x, y in zip(line["x"], line["y"], strict=True):
            canvas.dot(chart.across(x), chart.up(y), inks[name], radius=6)
        canvas.dot(540, 66 + 26 * number, inks[name], radius=6)
        canvas.text(556, 70 + 26 * number, f"trained: {name}", size=12.5, anchor="start")
    return canvas.svg(
        "Methods with a smaller bound had a smaller gap; every bound is hundreds of times its gap or more"
    )


PICTURES: dict[str, Callable[[], str]] = {
    "concept-asymmetry.svg": asymmetry,
    "concept-least-squares.svg": least_squares,
    "concept-chains.svg": chains,
    "concept-digits.svg": digits,
    "concept-selectors.svg": selectors,
    "concept-descent.svg": descent,
    "concept-bounds.svg": bounds,
    "concept-bounds-and-gaps.svg": bounds_and_gaps,
}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
        print(f"wrote docs/images/{name}")
