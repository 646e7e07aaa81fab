"""`lopsided methods`: the table of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lopsided_cli import options
from lopsided_cli.printing import print_json, print_table

if TYPE_CHECKING:
    from lopsided import Method


def methods(json: options.Json = False) -> None:
    """Print every method: what it trains, its sketch, its chain, its size and its source."""
    from lopsided import METHODS

    if json:
        print_json([{**method.parts(), "trained_numbers": method.trained_formula} for method in METHODS.values()])
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


def _sketch(method: Method) -> str:
    if method.sketch is None:
        return "-"
    parts = method.sketch.parts()
    fields = ", ".join(str(value) for key, value in parts.items() if key in ("order", "which"))
    return f"{parts['kind']}({fields})" if fields else parts["kind"]


def _chain(method: Method) -> str:
    if method.chain is None:
        return "-"
    extras = [f"prune {method.chain.prune:g}"] if method.chain.prune < 1 else []
    extras += [f"re-warm {method.chain.rewarm}"] if method.chain.rewarm else []
    return ", ".join([f"{method.chain.links} links", *extras])
