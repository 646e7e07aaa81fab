"""`lopsided lab`: the papers' claims, tested on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import print_json, print_table

if TYPE_CHECKING:
    from lopsided.lab import Experiment


def lab(
    name: Annotated[str | None, typer.Argument(help="An experiment, or all.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the experiments and their claims.")] = False,
    quick: Annotated[bool, typer.Option("--quick/--full", help="A look in minutes, or the whole experiment.")] = True,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; the experiment's own number by default.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of IDX files, for digits-chain.")] = None,
    resume: options.Resume = False,
    out: options.Out = None,
    page: Annotated[Path | None, typer.Option(help="Write a markdown page about the results here.")] = None,
    json: options.Json = False,
) -> None:
    """Run an experiment: a folder with result.json, plots and a verdict for each."""
    from lopsided.lab import EXPERIMENTS, Request, run_experiment, write_page

    if list_:
        _list(list(EXPERIMENTS.values()), json)
        return
    experiments = _experiments(name, data)
    folder = out or options.free_folder(f"lab-{name}")
    results, folders = [], []
    for experiment in experiments:
        request = Request(
            size="quick" if quick else "full",
            seeds=seeds,
            data=data,
            note=lambda text, e=experiment: typer.echo(f"{e.name}: {text}", err=True),  # type: ignore[misc]
        )
        folders.append(folder / experiment.name if name == "all" else folder)
        results.append(run_experiment(experiment, request, folders[-1], resume=resume))
        if not json:
            _print_result(results[-1], folders[-1])
    if page is not None:
        write_page(folders, page)
    if json:
        print_json(results if name == "all" else results[0])


def _experiments(name: str | None, data: Path | None) -> list[Experiment]:
    from lopsided.lab import EXPERIMENTS, experiment_named

    if name is None:
        raise BadInput(f"expected an experiment or all, got none; write one of {', '.join(EXPERIMENTS)}, or --list")
    if name != "all":
        return [experiment_named(name)]
    if data is not None:
        raise BadInput("--data is for one experiment, got all; name the experiment, such as digits-chain")
    return list(EXPERIMENTS.values())


def _list(experiments: Sequence[Experiment], json: bool) -> None:
    if json:
        print_json([{"name": e.name, "claim": e.claim, "source": e.source} for e in experiments])
        return
    rows = [(e.name, e.claim, e.source) for e in experiments]
    print_table(("experiment", "claim", "source"), rows, unbroken=("experiment",))


def _print_result(result: Mapping[str, Any], folder: Path) -> None:
    from lopsided.lab.result_file import measured_text, state_text

    print_table(
        ("figure", "measured", "range for the claim", "paper", ""),
        [
            (
                each["what"],
                measured_text(each),
                each["tolerance"],
                "" if each["paper"] is None else f"{each['paper']:.4g}",
                state_text(each),
            )
            for each in result["figures"]
        ],
        title=f"{result['name']}: {result['verdict']}  ({result['seconds']:g} s, {folder}/result.json)",
    )
