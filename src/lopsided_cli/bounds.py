"""`lopsided bounds`: the papers' bounds on a model's adapters, next to measured gaps."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options
from lopsided_cli.printing import MISSING, figure, print_json, print_table
from lopsided_settings.train import TrainSettings

if TYPE_CHECKING:
    from lopsided.theory import InformationBound, ModelNumbers


@options.options_of(TrainSettings, only=("model", "rank", "links", "target_modules"))
def bounds(
    settings: options.Values,
    runs: Annotated[list[Path] | None, typer.Argument(help="Run directories: each bound next to its gap.")] = None,
    methods: options.Methods = "all",
    n: Annotated[int, typer.Option(help="Training samples.")] = 3668,
    sigma: Annotated[float, typer.Option(help="σ of the loss: half the range of a bounded one.")] = 0.5,
    bits: Annotated[float, typer.Option(help="Bits of a trained number.")] = 32,
    kind: Annotated[
        str | None,
        typer.Option(
            help="Kind of task: classification, regression, generation or choice; by default the model's own class."
        ),
    ] = None,
    labels: Annotated[int, typer.Option(help="Labels of a classification.")] = 2,
    json: options.Json = False,
) -> None:
    """Print generalization bounds of methods on a model, or of finished runs next to their measured gaps."""
    if runs:
        _of_runs(runs, bits, json)
        return
    from lopsided import METHODS
    from lopsided.method import method_named
    from lopsided.models.skeleton import skeleton
    from lopsided.models.target_names import as_targets
    from lopsided.theory import generalization_bound, is_counted, model_numbers

    chosen = [method_named(name) for name in options.method_names(methods) or METHODS]
    model = skeleton(settings["model"], kind, labels=labels)
    numbers = model_numbers(model, as_targets(settings["target_modules"] or "all-linear"))
    # A model that generates text has no head of a task, and then the head has no bound.
    lacking = [method for method in chosen if not is_counted(method, numbers)]
    without = {method.name: method.side.uncounted.format(model=type(model).__name__) for method in lacking}
    results = [
        generalization_bound(
            numbers, method, settings["rank"], n, sigma, bits, settings["links"] if method.chain else None
        )
        for method in chosen
        if method.name not in without
    ]
    results.sort(key=lambda bound: bound.value)
    if json:
        _print_bounds_json(results, without)
        return
    shown = f"{settings['model']} ({type(model).__name__}), r={settings['rank']}, n={n}, {bits:g} bits, σ={sigma:g}"
    _print_bounds(results, without, _title(numbers, shown))
    for name, why in without.items():
        print(f"{MISSING} {name}: {why}")


def _print_bounds_json(results: Sequence[InformationBound], without: Mapping[str, str]) -> None:
    from lopsided.method import method_named
    from lopsided.theory import covers

    listed = [{**dataclasses.asdict(bound), "single_run": covers(method_named(bound.method))} for bound in results]
    lacking = [{"method": name, "value": None, "trained": None, "why": {"value": why}} for name, why in without.items()]
    print_json([*listed, *lacking])


def _title(numbers: ModelNumbers, shown: str) -> str:
    head = f"A head of {numbers.head:,} numbers" if numbers.head else "A head"
    return (
        f"Expected gap between test and training loss, at most: {len(numbers.layers)} layers of {shown}. In the loss's "
        f"own units; above 2σ it says nothing. {head} comes on top of an adapter's numbers"
    )


def _print_bounds(results: Sequence[InformationBound], without: Collection[str], title: str) -> None:
    from lopsided.method import method_named
    from lopsided.theory import covers

    rows = [
        (
            bound.method,
            str(bound.links),
            f"{bound.trained:,}",
            f"{bound.value:.3f}",
            "covered" if covers(method_named(bound.method)) else "not covered",
        )
        for bound in results
    ]
    rows += [(name, MISSING, MISSING, MISSING, "not covered") for name in without]
    print_table(("method", "links", "trained numbers", "bound", "single-run bound"), rows, title=title)


def _of_runs(runs: Sequence[Path], bits: float, json: bool) -> None:
    from lopsided.runs.measured_bound import bound_of_run

    results = [bound_of_run(folder, bits) for folder in runs]
    if json:
        print_json([{**dataclasses.asdict(run), "folder": str(run.folder)} for run in results])
        return
    print_table(
        ("run", "method", "seed", "measured", "bound", "bound / measured", "σ"),
        [
            (
                str(run.folder),
                run.bound.method,
                str(run.seed),
                f"{figure(run.measured, '.3f')} ± {figure(run.se, '.3f')}",
                f"{run.bound.value:.2f}",
                f"{run.bound.value / run.measured:.0f}" if run.measured else MISSING,
                f"{run.bound.sigma.value:.2f}",
            )
            for run in results
        ],
        title="Measured |test loss - train loss| with its standard error, and the bound with σ estimated on test "
        "(nats)",
    )
    for run in results:
        for name, reason in run.why.items():
            print(f"{MISSING} {run.folder}, {name}: {reason}")
        if run.measured == 0:
            print(f"{MISSING} {run.folder}, bound / measured: the measured gap is 0")
