"""Draw the rooms of the source and what imports what: `python docs/draw_rooms.py` writes docs/images/rooms.svg.

A room stands above every room that it imports. Of the imports only those are drawn that no longer way implies.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lopsided"
PICTURE = ROOT / "docs" / "images" / "rooms.svg"
# Errors are imported from everywhere, and would hide the rest.
LEFT_OUT = ("__init__", "errors")
WIDTH, HEIGHT, GAP, ROW = 168, 74, 14, 118


def imports() -> dict[str, set[str]]:
    """Return, for each room of the library, the rooms that it imports."""
    graph: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in LEFT_OUT:
            continue
        others = graph.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lopsided."):
                others.add(node.module.split(".")[1])
    return {room: others - {room, *LEFT_OUT} for room, others in graph.items()}


def levels(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Return each room's height: one more than the highest room that it imports."""
    heights: dict[str, int] = {}

    def height(room: str) -> int:
        if room not in heights:
            heights[room] = 1 + max((height(other) for other in graph[room]), default=-1)
        return heights[room]

    for room in graph:
        height(room)
    return heights


def shortest(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports that no longer way implies (the transitive reduction)."""

    def reachable(room: str) -> set[str]:
        return set().union(*({other} | reachable(other) for other in graph[room]))

    return {
        room: {other for other in others if not any(other in reachable(way) for way in others - {other})}
        for room, others in graph.items()
    }


def purpose(room: str) -> str:
    """Return the first line of a room's docstring."""
    path = SOURCE / room / "__init__.py"
    text = (path if path.exists() else SOURCE / f"{room}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]


def placed(heights: Mapping[str, int], graph: Mapping[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Return the centre of each room's box; within a row, rooms lie near those that they import."""
    top = max(heights.values())
    rows = [[room for room in heights if heights[room] == level] for level in range(top + 1)]
    width = max(len(row) for row in rows) * (WIDTH + GAP) + GAP
    centres: dict[str, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        below = {room: [centres[other][0] for other in graph[room]] or [width / 2] for room in row}
        # Exactly rounded: a plain sum over a set may break ties differently in every process.
        row.sort(key=lambda room: (math.fsum(below[room]) / len(below[room]), room))
        step = width / len(row)
        for number, room in enumerate(row):
            centres[room] = (step * (number + 0.5), (top - level) * ROW + HEIGHT / 2 + GAP)
    return centres


def picture() -> str:
    """Return the picture as SVG text."""
    graph = imports()
    edges, heights = shortest(graph), levels(graph)
    centres = placed(heights, edges)
    width = max(x for x, _ in centres.values()) + WIDTH / 2 + GAP
    height = max(y for _, y in centres.values()) + HEIGHT / 2 + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    for room, others in edges.items():
        x, y = centres[room]
        for other in sorted(others):
            u, v = centres[other]
            start, end = y + HEIGHT / 2, v - HEIGHT / 2
            bend = (start + end) / 2
            curve = f"M{x:.0f},{start:.0f} C{x:.0f},{bend:.0f} {u:.0f},{bend:.0f} {u:.0f},{end:.0f}"
            lines.append(f'<path d="{curve}" fill="none" stroke="#9aa5b1" stroke-width="1.3"/>')
    for room, (x, y) in centres.items():
        left, up = x - WIDTH / 2, y - HEIGHT / 2
        box = f'x="{left:.0f}" y="{up:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6"'
        lines.append(f'<rect {box} fill="#eef3f8" stroke="#35597a"/>')
        text = f'text-anchor="middle" x="{x:.0f}"'
        name = room if (SOURCE / room).is_dir() else f"{room}.py"
        lines.append(f'<text {text} y="{up + 19:.0f}" font-size="14" font-weight="bold">{name}</text>')
        for number, line in enumerate(wrap(purpose(room).rstrip("."), 31)[:4]):
            lines.append(f'<text {text} y="{up + 33 + 11.5 * number:.1f}" font-size="9.5">{escape(line)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(ROOT)}")
