"""`lopsided methods`: the table of methods, and that of stock PEFT's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from lopsided_cli import options
from lopsided_cli.printing import print_json, print_table

if TYPE_CHECKING:
    from lopsided import Method


def methods(json: options.Json = False) -> None:
    """Print every method: what it trains, its sketch, its chain, its size and its source."""
    from lopsided import METHODS
    from lopsided.baselines import BASELINES
    from lopsided.method import method_named

    if json:
        baselines = [
            {**method_named(f"peft:{name}").parts(), "trained_numbers": entry.trained, "why_lr": entry.why_lr}
            for name, entry in BASELINES.items()
        ]
        print_json([*(_listed(method) for method in METHODS.values()), *baselines])
        return
    print_table(
        ("method", "trains", "sketch", "chain", "trained numbers", "source"),
        [
            (name, method.train, _sketch(method), _chain(method), method.trained_formula, method.source)
            for name, method in METHODS.items()
        ],
        title="Trained numbers are those of one layer, d_out x d_in, at rank r",
        unbroken=("method",),
    )
    print_table(
        ("method", "learning rate", "why", "trained numbers", "source"),
        [
            (f"peft:{name}", f"{entry.lr:g}", entry.why_lr, entry.trained, entry.source)
            for name, entry in BASELINES.items()
        ],
        title="Methods of stock PEFT, to compare with; a learning rate is the default one",
        unbroken=("method",),
    )


def _listed(method: Method) -> dict[str, Any]:
    """Return a method's parts, with all switches of its chain, and what follows from them."""
    chain = method.chain
    switches = None if chain is None else {**dataclasses.asdict(chain), "jumps": chain.jumps}
    return {**method.parts(), "chain": switches, "trained_numbers": method.trained_formula}


def _sketch(method: Method) -> str:
    if method.sketch is None:
        return "-"
    parts = method.sketch.parts()
    fields = ", ".join(str(value) for key, value in parts.items() if key in ("order", "which"))
    return f"{parts['kind']}({fields})" if fields else parts["kind"]


def _chain(method: Method) -> str:
    if method.chain is None:
        return "-"
    return ", ".join([f"{method.chain.links} links", *method.chain.departures])
