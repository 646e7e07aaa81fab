"""`lopsided lab`: the papers' claims, put to the test on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lopsided_cli import options


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
    from lopsided_cli.shared import BadInput, print_json, verb

    with verb():
        from lopsided.lab import EXPERIMENTS, Request, experiment_named, run_experiment, write_page

        if list_:
            _list(list(EXPERIMENTS.values()), json)
            return
        if name is None:
            raise BadInput(f"expected an experiment or all, got none; write one of {', '.join(EXPERIMENTS)}, or --list")
        chosen = list(EXPERIMENTS.values()) if name == "all" else [experiment_named(name)]
        if data is not None and name == "all":
            raise BadInput("--data is for one experiment, got all; name the experiment, such as digits-chain")
        folder = out or options.free_folder(f"lab-{name}")
        results, folders = [], []
        for experiment in chosen:
            request = Request(
                size="quick" if quick else "full",
                seeds=seeds,
                data=data,
                note=lambda text, e=experiment: typer.echo(f"{e.name}: {text}", err=True),  # type: ignore[misc]
            )
            folders.append(folder / experiment.name if name == "all" else folder)
            results.append(run_experiment(experiment, request, folders[-1], resume=resume))
            if not json:
                _tell(results[-1], folders[-1])
        if page is not None:
            write_page(folders, page)
        if json:
            print_json(results if name == "all" else results[0])


def _list(experiments, json: bool) -> None:  # type: ignore[no-untyped-def]
    if json:
        from lopsided_cli.shared import print_json

        rows = [{"name": e.name, "claim": e.claim, "source": e.source} for e in experiments]
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("experiment", "claim", "source"):
        table.add_column(heading, no_wrap=heading == "experiment", overflow="fold")
    for experiment in experiments:
        table.add_row(experiment.name, experiment.claim, experiment.source)
    Console(width=None if Console().is_terminal else 150).print(table)


def _tell(result, folder: Path) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.table import Table

    from lopsided.lab.result_file import measured_text, state_text

    title = f"{result['name']}: {result['verdict']}  ({result['seconds']:g} s, {folder}/result.json)"
    table = Table(title=title, title_justify="left")
    for heading in ("figure", "measured", "range for the claim", "paper", ""):
        table.add_column(heading, overflow="fold")
    for found in result["figures"]:
        table.add_row(
            found["what"],
            measured_text(found),
            found["tolerance"],
            "" if found["paper"] is None else f"{found['paper']:.4g}",
            state_text(found),
        )
    Console(width=None if Console().is_terminal else 150).print(table)
