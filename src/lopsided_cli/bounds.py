"""`lopsided bounds`: what the papers' bounds say of a model's adapters, next to measured gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lopsided_cli import options

if TYPE_CHECKING:
    from lopsided.theory import InformationBound


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
    from lopsided_cli.shared import verb

    with verb():
        if runs:
            _print_bounds_of_runs(runs, bits, json)
            return
        from lopsided import METHODS
        from lopsided.method import method_named
        from lopsided.runs.config import as_targets
        from lopsided.runs.measured_bound import skeleton
        from lopsided.theory import generalization_bound, model_numbers

        listed = list(METHODS.values()) if methods == "all" else [method_named(name) for name in methods.split(",")]
        # The architecture without weights, which is all that a count takes.
        built = skeleton(model, kind, labels=labels)
        counted = model_numbers(built, as_targets(target_modules or "all-linear"))
        # A model that generates text has no head of a task, and then the head has no bound.
        without = [method.name for method in listed if method.train == "head" and counted.head is None]
        values = [
            generalization_bound(counted, method, rank, n, sigma, bits, links if method.chain else None)
            for method in listed
            if method.name not in without
        ]
        table = BoundsOfModel(
            bounds=sorted(values, key=lambda bound: bound.value),
            without=without,
            class_name=type(built).__name__,
            layers=len(counted.layers),
            head=counted.head,
        )
        if json:
            table.print_as_json()
        else:
            table.print_as_table(f"{model} ({table.class_name}), r={rank}, n={n}, {bits:g} bits, σ={sigma:g}")


@dataclass(frozen=True, kw_only=True)
class BoundsOfModel:
    """The bounds of methods on one model.

    Args:
        bounds: the smallest first.
        without: the methods that have no bound, since the model has no task's head.
        class_name: of the model.
        layers: how many would be adapted.
        head: the numbers of the task's head; None where there is none.
    """

    bounds: Sequence[InformationBound]
    without: Sequence[str]
    class_name: str
    layers: int
    head: int | None

    @property
    def why(self) -> str:
        """Why methods have no bound."""
        return f"{self.class_name} has no task's head"

    def print_as_json(self) -> None:
        """Print one record per method."""
        from lopsided_cli.shared import print_json

        records: list[dict[str, Any]] = [{**asdict(b), "single_run": _is_covered(b.method)} for b in self.bounds]
        records += [{"method": m, "value": None, "trained": None, "why": {"value": self.why}} for m in self.without]
        print_json(records)

    def print_as_table(self, what: str) -> None:
        """Print one row per method, and why some have no bound.

        Args:
            what: the model and what else the bounds depend on, for the title.
        """
        from lopsided_cli.shared import MISSING
        from lopsided_cli.wide_table import print_table

        head = f"a head of {self.head:,} numbers" if self.head else "a head"
        title = (
            f"Expected gap between test and training loss, at most: {self.layers} layers of {what}. In the loss's own "
            f"units; above 2σ it says nothing. {head.capitalize()} comes on top of an adapter's numbers"
        )
        rows = [
            [
                b.method,
                str(b.links),
                f"{b.trained:,}",
                f"{b.value:.3f}",
                "covered" if _is_covered(b.method) else "not covered",
            ]
            for b in self.bounds
        ]
        rows += [[name, MISSING, MISSING, MISSING, "not covered"] for name in self.without]
        print_table(["method", "links", "trained numbers", "bound", "single-run bound"], rows, title=title)
        for name in self.without:
            print(f"{MISSING} {name}: {self.why}")


def _is_covered(method: str) -> bool:
    """Whether the single-run bound is for a method."""
    from lopsided.method import method_named
    from lopsided.theory import covers

    return covers(method_named(method))


def _print_bounds_of_runs(folders: list[Path], bits: float, json: bool) -> None:
    from lopsided.runs.measured_bound import bound_of_run
    from lopsided_cli.shared import MISSING, figure, print_json
    from lopsided_cli.wide_table import print_table

    runs = [bound_of_run(folder, bits) for folder in folders]
    if json:
        print_json([{**asdict(run), "folder": str(run.folder)} for run in runs])
        return
    rows = [
        [
            str(run.folder),
            run.bound.method,
            str(run.seed),
            f"{figure(run.measured, '.3f')} ± {figure(run.se, '.3f')}",
            f"{run.bound.value:.2f}",
            f"{run.bound.value / run.measured:.0f}" if run.measured else MISSING,
            f"{run.bound.sigma.value:.2f}",
        ]
        for run in runs
    ]
    title = "Measured |test loss - train loss| with its standard error, and the bound with σ estimated on test (nats)"
    print_table(["run", "method", "seed", "measured", "bound", "bound / measured", "σ"], rows, title=title)
    for run in runs:
        for name, reason in run.why.items():
            print(f"{MISSING} {run.folder}, {name}: {reason}")
        if run.measured == 0:
            print(f"{MISSING} {run.folder}, bound / measured: the measured gap is 0")
