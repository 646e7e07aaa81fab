"""Advice on disk: advice.json and its plots."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lopsided.advise.layer_gains import Advice
from lopsided.files.atomic import atomic_folder, write_json
from lopsided.plotting.svg import Drawing, Trace, draw

SCHEMA = 1
# More colours than these are hard to tell apart.
LINES = 6


def advice_record(advice: Advice, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what advice.json holds."""
    return {
        "schema": SCHEMA,
        "settings": dict(settings),
        "unit": "nats a prediction; squared units for regression",
        "predictions": advice.predictions,
        "r": advice.r,
        "damping": advice.damping,
        "seeds": advice.seeds,
        "totals": [dataclasses.asdict(total) for total in advice.totals()],
        "best": {module: row.method for module, row in advice.best().items()},
        "unseen": list(advice.unseen),
        "rows": [dataclasses.asdict(row) for row in advice.rows],
    }


def write_advice(advice: Advice, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write the folder, whole or not at all, and return what advice.json holds.

    Raises:
        LopsidedError: if the folder holds other files.
    """
    record = advice_record(advice, settings)
    with atomic_folder(folder) as new:
        for drawing in drawings(advice):
            draw(drawing, new / f"{drawing.name}.svg")
        write_json(new / "advice.json", record)
    return record


def drawings(advice: Advice) -> list[Drawing]:
    """Return the drawings: the methods' totals, and the layers of the best methods."""
    return [_methods_drawing(advice), _layers_drawing(advice)]


def _methods_drawing(advice: Advice) -> Drawing:
    totals = advice.totals()
    return Drawing(
        name="methods",
        title=f"Estimated reduction of the loss at equal trained numbers (training B: r={advice.r})",
        x="method; a star marks an upper bound for two factors",
        y="expected reduction of the loss",
        lines=[
            Trace(
                name="all layers",
                x=[f"{total.method}*" if total.is_bound else total.method for total in totals],
                y=[total.reduction for total in totals],
                style="bars",
            )
        ],
    )


def _layers_drawing(advice: Advice) -> Drawing:
    modules = list(dict.fromkeys(row.module for row in advice.rows))
    by_place = {(row.method, row.module): row.reduction for row in advice.rows}
    one_sided = [total for total in advice.totals() if not total.is_bound]
    return Drawing(
        name="layers",
        title="Where the reduction is expected",
        x="layer, in the model's order",
        y="expected reduction of the loss",
        lines=[
            Trace(
                name=f"{total.method} (trains {total.side})",
                x=list(range(len(modules))),
                y=[by_place[total.method, module] for module in modules],
                style="points",
            )
            for total in one_sided[:LINES]
        ],
    )
