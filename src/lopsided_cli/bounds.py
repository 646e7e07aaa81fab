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
    kind: Annotated[
        str | None,
        typer.Option(
            help="Of the task: classification, regression or generation; by the model's own class by default."
        ),
    ] = None,
    labels: Annotated[int, typer.Option(help="Labels of a classification.")] = 2,
    target_modules: options.TargetModules = "all-linear",
    json: options.Json = False,
) -> None:
    """Print generalization bounds of methods on a model, or of finished runs beside their measured gaps."""
    from lopsided_cli.shared import MISSING, print_json, verb

    with verb():
        if runs:
            _of_runs(runs, bits, json)
            return
        import dataclasses

        from lopsided import METHODS
        from lopsided.method import method_named
        from lopsided.runs.config import as_targets
        from lopsided.runs.measured_bound import skeleton
        from lopsided.theory import covers, generalization_bound, is_counted, model_numbers

        chosen = list(METHODS.values()) if methods == "all" else [method_named(name) for name in methods.split(",")]
        built = skeleton(model, kind, labels=labels)
        counted = model_numbers(built, as_targets(target_modules or "all-linear"))
        # A model that generates text has no head of a task, and then the head has no bound.
        without = [method.name for method in chosen if not is_counted(method, counted)]
        found = [
            generalization_bound(counted, method, rank, n, sigma, bits, links if method.chain else None)
            for method in chosen
            if method.name not in without
        ]
        found.sort(key=lambda bound: bound.value)
        why = f"{type(built).__name__} has no task's head"
        if json:
            listed = [{**dataclasses.asdict(b), "single_run": covers(method_named(b.method))} for b in found]
            lacking = [{"method": name, "value": None, "trained": None, "why": {"value": why}} for name in without]
            print_json([*listed, *lacking])
            return
        head = f"a head of {counted.head:,} numbers" if counted.head else "a head"
        title = (
            f"Expected gap between test and training loss, at most: {len(counted.layers)} layers of {model} "
            f"({type(built).__name__}), r={rank}, n={n}, {bits:g} bits, σ={sigma:g}. In the loss's own units; above 2σ "
            f"it says nothing. {head.capitalize()} comes on top of an adapter's numbers"
        )
        rows = [
            [
                b.method,
                str(b.links),
                f"{b.trained:,}",
                f"{b.value:.3f}",
                "covered" if covers(method_named(b.method)) else "not covered",
            ]
            for b in found
        ]
        rows += [[name, MISSING, MISSING, MISSING, "not covered"] for name in without]
        _print(title, ["method", "links", "trained numbers", "bound", "single-run bound"], rows)
        for name in without:
            print(f"{MISSING} {name}: {why}")


def _of_runs(runs: list[Path], bits: float, json: bool) -> None:
    import dataclasses

    from lopsided.runs.measured_bound import bound_of_run
    from lopsided_cli.shared import MISSING, figure, print_json

    found = [bound_of_run(folder, bits) for folder in runs]
    if json:
        print_json([{**dataclasses.asdict(run), "folder": str(run.folder)} for run in found])
        return
    rows: list[list[str]] = [
        [
            str(run.folder),
            run.bound.method,
            str(run.seed),
            f"{figure(run.measured, '.3f')} ± {figure(run.se, '.3f')}",
            f"{run.bound.value:.2f}",
            f"{run.bound.value / run.measured:.0f}" if run.measured else MISSING,
            f"{run.bound.sigma.value:.2f}",
        ]
        for run in found
    ]
    title = "Measured |test loss - train loss| with its standard error, and the bound with σ estimated on test (nats)"
    _print(title, ["run", "method", "seed", "measured", "bound", "bound / measured", "σ"], rows)
    for run in found:
        for name, reason in run.why.items():
            print(f"{MISSING} {run.folder}, {name}: {reason}")
        if run.measured == 0:
            print(f"{MISSING} {run.folder}, bound / measured: the measured gap is 0")


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
