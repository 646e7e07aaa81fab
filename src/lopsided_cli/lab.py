"""`lopsided lab`: the papers' claims, tested on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import print_json, print_table

if TYPE_CHECKING:
    from lopsided.lab import Experiment, LabResult


def lab(
    name: Annotated[str | None, typer.Argument(help="An experiment, or all.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the experiments and their claims.")] = False,
    quick: Annotated[bool, typer.Option("--quick/--full", help="A look in minutes, or the whole experiment.")] = True,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; the experiment's own number by default.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="IDX files for digits-chain, a study's results for chain-factorial."),
    ] = None,
    resume: options.Resume = False,
    out: options.Out = None,
    page: Annotated[Path | None, typer.Option(help="Write a markdown page about the results here.")] = None,
    json: options.Json = False,
) -> None:
    """Run an experiment: a folder with result.json, plots and a verdict for each."""
    from lopsided.lab import EXPERIMENTS, Request, run_experiment, write_page

    if list_:
        _list(EXPERIMENTS.values(), json)
        return
    experiments = _experiments(name, data)
    folder = out or options.free_folder(f"lab-{name}")
    results = []
    for experiment in experiments:
        request = Request(size="quick" if quick else "full", seeds=seeds, data=data, note=_note_of(experiment.name))
        own_folder = folder / experiment.name if name == "all" else folder
        results.append(run_experiment(experiment, request, own_folder, resume=resume))
        if not json:
            _print_result(results[-1])
    if page is not None:
        write_page([result.folder for result in results], page)
    if json:
        records = [result.record for result in results]
        print_json(records if name == "all" else records[0])


def _experiments(name: str | None, data: Path | None) -> list[Experiment]:
    from lopsided.lab import EXPERIMENTS, experiment_named

    if name is None:
        raise BadInput(f"expected an experiment or all, got none; write one of {', '.join(EXPERIMENTS)}, or --list")
    if name != "all":
        return [experiment_named(name)]
    if data is not None:
        raise BadInput("--data is for one experiment, got all; name the experiment, such as digits-chain")
    return list(EXPERIMENTS.values())


def _note_of(name: str) -> Callable[[str], None]:
    """Return a function that prints an experiment's progress on stderr."""

    def note(text: str) -> None:
        typer.echo(f"{name}: {text}", err=True)

    return note


def _list(experiments: Iterable[Experiment], json: bool) -> None:
    if json:
        print_json([{"name": e.name, "claim": e.claim, "source": e.source} for e in experiments])
        return
    rows = [(e.name, e.claim, e.source) for e in experiments]
    print_table(("experiment", "claim", "source"), rows, unbroken=("experiment",))


def _print_result(result: LabResult) -> None:
    print_table(
        ("figure", "measured", "range for the claim", "paper", ""),
        [
            (figure.what, figure.measured_text, figure.tolerance, figure.paper_text, figure.state_text)
            for figure in result.figures
        ],
        title=f"{result.name}: {result.verdict}  ({result.seconds:g} s, {result.folder}/result.json)",
    )
