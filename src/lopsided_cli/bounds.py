"""`lopsided bounds`: what the papers' bounds say of a model's adapters, beside measured gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lopsided_cli import options


def bounds(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run directories: each bound beside its gap.")] = None,
    model: options.Model = "embedded",
    methods: Annotated[str, typer.Option(help="Names separated by commas, or all.")] = "all",
    rank: options.Rank = 16,
    n: Annotated[int, typer.Option(help="Training samples.")] = 3668,
    sigma: Annotated[float, typer.Option(help="σ of the loss: half the range of a bounded one.")] = 0.5,
    bits: Annotated[float, typer.Option(help="Bits of a trained number.")] = 32,
    links: options.Links = None,
    target_modules: options.TargetModules = "all-linear",
    json: options.Json = False,
) -> None:
    """Print generalization bounds of methods on a model, or of finished runs beside their measured gaps."""
    from lopsided_cli.shared import verb

    with verb():
        if runs:
            _of_runs(runs, bits, json)
            return
        import dataclasses

        from lopsided import METHODS
        from lopsided.method import method_named
        from lopsided.theory import covers, generalization_bound, layer_dims
        from lopsided.theory.of_runs import skeleton
        from lopsided.train.config import as_targets

        chosen = list(METHODS.values()) if methods == "all" else [method_named(name) for name in methods.split(",")]
        layers = layer_dims(skeleton(model), as_targets(target_modules or "all-linear"))
        found = [
            generalization_bound(layers, method, rank, n, sigma, bits, links if method.chain else None)
            for method in chosen
        ]
        found.sort(key=lambda bound: bound.value)
        if json:
            import json as json_module

            listed = [{**dataclasses.asdict(b), "single_run": covers(method_named(b.method))} for b in found]
            print(json_module.dumps(listed, indent=2))
            return
        title = (
            f"Expected gap between test and training loss, at most: {len(layers)} layers of {model}, r={rank}, "
            f"n={n}, {bits:g} bits, σ={sigma:g}. In the loss's own units; above 2σ it says nothing. A head comes on top"
        )
        rows = [
            [
                b.method,
                str(b.links),
                f"{b.trained:,}",
                f"{b.value:.3f}" if b.trained else "nothing adapted",
                "covered" if covers(method_named(b.method)) else "not covered",
            ]
            for b in found
        ]
        _print(title, ["method", "links", "trained numbers", "bound", "single-run bound"], rows)


def _of_runs(runs: list[Path], bits: float, json: bool) -> None:
    import dataclasses

    from lopsided.theory.of_runs import bound_of_run

    found = [bound_of_run(folder, bits) for folder in runs]
    if json:
        import json as json_module

        print(json_module.dumps([dataclasses.asdict(run) for run in found], indent=2, default=str))
        return
    rows: list[list[str]] = [
        [
            str(run.folder),
            run.bound.method,
            str(run.seed),
            f"{run.measured:.3f} ± {run.se:.3f}",
            f"{run.bound.value:.2f}",
            f"{run.bound.value / run.measured:.0f}" if run.measured else "",
            f"{run.bound.sigma.value:.2f}",
        ]
        for run in found
    ]
    title = "Measured |test loss - train loss| with its standard error, and the bound with σ estimated on test (nats)"
    _print(title, ["run", "method", "seed", "measured", "bound", "bound / measured", "σ"], rows)


def _print(title: str, headings: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # A pipe has no width: give the table room there, and the terminal's width elsewhere.
    Console(width=None if Console().is_terminal else 150).print(table)
