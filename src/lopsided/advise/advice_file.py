"""Advice on disk: advice.json with its plot, and rates.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lopsided.advise.first_rate import Rate
from lopsided.advise.layer_gains import Advice
from lopsided.files.atomic import atomic_folder, write_json
from lopsided.method import method_named
from lopsided.plotting.svg import Drawing, Trace, draw

SCHEMA = 2
# More colours than these are hard to tell apart.
LINES = 6


def advice_record(advice: Advice, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what advice.json holds."""
    return {
        "schema": SCHEMA,
        "settings": dict(settings),
        "unit": "nats per prediction; squared units for regression",
        "predictions": advice.predictions,
        "r": advice.r,
        "damping": advice.damping,
        "seeds": advice.seeds,
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
    """Return the drawing of the layers."""
    return [_layers_drawing(advice)]


def _layers_drawing(advice: Advice) -> Drawing:
    modules = list(dict.fromkeys(row.module for row in advice.rows))
    by_place = {(row.method, row.module): row.reduction for row in advice.rows}
    one_sided = list(dict.fromkeys((row.method, row.side) for row in advice.rows if not row.is_bound))
    return Drawing(
        name="layers",
        title="Where the reduction is expected",
        x="layer, in the model's order",
        y="expected reduction of the loss",
        lines=[
            Trace(
                name=f"{method} (trains {side})",
                x=list(range(len(modules))),
                y=[by_place[method, module] for module in modules],
                style="points",
            )
            for method, side in one_sided[:LINES]
        ],
    )


def rates_record(rates: Sequence[Rate], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what rates.json holds."""
    return {
        "schema": SCHEMA,
        "settings": dict(settings),
        "rates": [{**dataclasses.asdict(rate), "default": method_named(rate.method).lr} for rate in rates],
    }


def write_rates(rates: Sequence[Rate], folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write the folder, whole or not at all, and return what rates.json holds.

    Raises:
        LopsidedError: if the folder holds other files.
    """
    record = rates_record(rates, settings)
    with atomic_folder(folder) as new:
        write_json(new / "rates.json", record)
    return record
