"""Draw the README's picture: `python docs/draw_overview.py` writes docs/images/overview.svg.

What trains, what is read and how many numbers a layer has come from the methods themselves.
"""

from __future__ import annotations

from draw_concepts import FROZEN, GROUND, IMAGES, INK, LINKS, SOFT, TRAINED, Canvas

from lopsided.method import METHODS, Method
from lopsided.method.sketch import Selector

PICTURE = IMAGES / "overview.svg"
SHOWN = {
    "lora": ("LoRA: both learn", ""),
    "asym_b": ("A is random and", "stays frozen"),
    "cla": ("A only selects", "r columns"),
    "c3la": ("a chain: merge, then", "select the next columns"),
}
# The layer of the numbers, all-MiniLM-L6-v2's query; fewer columns are drawn than it has.
WIDTH, RANK = 384, 16
COLUMNS, READ = 24, 4
SIDE, TOP = 76, 74


def picture() -> str:
    """Return the picture: how four methods make ΔW of one layer."""
    canvas = Canvas(760, 268)
    canvas.text(
        30,
        30,
        f"A layer of {WIDTH} x {WIDTH} at r = {RANK}: W0 + s·B·A, four ways",
        size=14,
        anchor="start",
        font_weight="bold",
    )
    legend = ((TRAINED, "trained"), (FROZEN, "frozen"))
    for number, (ink, words) in enumerate(legend):
        canvas.box(570 + 84 * number, 20, 12, 12, ink)
        canvas.text(588 + 84 * number, 31, words, size=12, anchor="start")
    for number, name in enumerate(SHOWN):
        _panel(canvas, 30 + 184 * number, name)
    return canvas.svg("Four ways to make the update of a layer: both factors, a frozen one, a selector, a chain")


def _panel(canvas: Canvas, left: float, name: str) -> None:
    method = METHODS[name]
    canvas.text(left, 60, name, size=14, anchor="start", font_weight="bold")
    canvas.box(left, TOP, SIDE, SIDE, "#e6e9ea", line=SOFT)
    canvas.text(left + SIDE / 2, TOP + 46, "W0", size=13)
    canvas.text(left + SIDE + 11, TOP + 46, "+", size=16)
    canvas.text(left + SIDE + 32, TOP + SIDE + 16, "B", size=12)
    canvas.text(left + SIDE + 66, TOP + SIDE + 16, "A", size=12)
    links = (method.chain.links if method.chain is not None else None) or 1
    for link in range(links):
        _factors(canvas, left + SIDE + 22, method, link, links)
    for row, words in enumerate(SHOWN[name]):
        canvas.text(left, 188 + 17 * row, words, size=12.5, anchor="start")
    trained = method.adapter_side.count(WIDTH, WIDTH, RANK)
    canvas.text(left, 230, f"{trained:,} numbers train", size=12, anchor="start", ink=SOFT)
    rank = "rank r" if links == 1 else f"rank r per link, {links}r in all"
    canvas.text(left, 248, rank, size=12, anchor="start", ink=SOFT)


def _factors(canvas: Canvas, left: float, method: Method, link: int, links: int) -> None:
    """Draw B and A of one link; in a chain each has a colour of its own."""
    letters = method.adapter_side.letters
    ink = TRAINED if links == 1 else LINKS[link]
    width = 10 if links == 1 else 5
    canvas.box(left + 6 * link, TOP, width, SIDE, ink if "B" in letters else FROZEN)
    top, start, cell = TOP + 13 * link, left + 6 * (links - 1) + width + 5, 45 / COLUMNS
    learns = "A" in letters
    if learns or not isinstance(method.sketch, Selector):
        canvas.box(start, top, 45, 10, TRAINED if learns else FROZEN)
        return
    canvas.box(start, top, 45, 10, GROUND, line=FROZEN)
    for column in method.sketch.indices(READ, COLUMNS, seed=0, link=link):
        canvas.box(start + cell * int(column), top, cell, 10, INK)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
