"""`lopsided methods`: the table of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lopsided.method import Method


def methods(json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Print every method: what it trains, its sketch, its chain, its size and its source."""
    from lopsided_cli.shared import print_json, verb
    from lopsided_cli.wide_table import print_table

    with verb():
        from lopsided import METHODS

        if json:
            rows = [{**method.parts(), "trained_numbers": method.trained_formula} for method in METHODS.values()]
            print_json(rows)
            return
        print_table(
            ("method", "trains", "sketch", "chain", "trained numbers", "source"),
            [
                (name, method.train, _sketch(method), _chain(method), method.trained_formula, method.source)
                for name, method in METHODS.items()
            ],
            title="Trained numbers are those of one layer, d_out x d_in, at rank r",
            whole="method",
        )


def _sketch(method: Method) -> str:
    """The sketch with its order or kind, or a dash."""
    if method.sketch is None:
        return "-"
    parts = method.sketch.parts()
    fields = ", ".join(str(value) for key, value in parts.items() if key in ("order", "which"))
    return f"{parts['kind']}({fields})" if fields else parts["kind"]


def _chain(method: Method) -> str:
    """The chain's links and what else it does, or a dash."""
    if method.chain is None:
        return "-"
    extras = [f"prune {method.chain.prune:g}"] if method.chain.prune < 1 else []
    extras += [f"re-warm {method.chain.rewarm}"] if method.chain.rewarm else []
    return ", ".join([f"{method.chain.links} links", *extras])
