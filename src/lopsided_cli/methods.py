"""`lopsided methods`: the table of methods."""

from __future__ import annotations

import typer


def methods(json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Print every method: what it trains, its sketch, its chain, its size and its source."""
    from lopsided_cli.shared import print_json, verb

    with verb():
        from lopsided import METHODS

        if json:
            rows = [{**method.parts(), "trained_numbers": method.trained_formula} for method in METHODS.values()]
            print_json(rows)
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(title="Trained numbers are those of one layer, d_out x d_in, at rank r", title_justify="left")
        for heading in ("method", "trains", "sketch", "chain", "trained numbers", "source"):
            table.add_column(heading, no_wrap=heading == "method", overflow="fold")
        for name, method in METHODS.items():
            table.add_row(name, method.train, _sketch(method), _chain(method), method.trained_formula, method.source)
        # A pipe has no width: give the table room there, and the terminal's width elsewhere.
        Console(width=None if Console().is_terminal else 150).print(table)


def _sketch(method) -> str:  # type: ignore[no-untyped-def]
    if method.sketch is None:
        return "-"
    parts = method.sketch.parts()
    fields = ", ".join(str(value) for key, value in parts.items() if key in ("order", "which"))
    return f"{parts['kind']}({fields})" if fields else parts["kind"]


def _chain(method) -> str:  # type: ignore[no-untyped-def]
    if method.chain is None:
        return "-"
    extras = [f"prune {method.chain.prune:g}"] if method.chain.prune < 1 else []
    extras += [f"re-warm {method.chain.rewarm}"] if method.chain.rewarm else []
    return ", ".join([f"{method.chain.links} links", *extras])
