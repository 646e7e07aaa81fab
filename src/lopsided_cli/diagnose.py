"""`lopsided diagnose`: what a finished run looks like."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lopsided_cli import options


def diagnose(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run directories, or folders of them.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A saved LoRA adapter, instead of runs; with --base.")] = None,
    base: Annotated[str | None, typer.Option(help="The adapter's model: a name or a folder.")] = None,
    only: Annotated[str | None, typer.Option(help="Sections separated by commas; all by default.")] = None,
    top: Annotated[int, typer.Option(help="Leading singular vectors that count as the first ones.")] = 10,
    all_vectors: Annotated[
        bool, typer.Option("--all-vectors/--top-only", help="Intruders among all vectors, or the first ones alone.")
    ] = True,
    points: Annotated[int, typer.Option(help="Points of a landscape along each axis.")] = 25,
    rows: Annotated[int, typer.Option(help="Validation rows of landscapes and sharpness.")] = 256,
    hessian_rows: Annotated[int, typer.Option(help="How many of them the Hessian is taken of.")] = 64,
    directions: Annotated[str, typer.Option(help="Of landscapes: auto, random or trajectory.")] = "auto",
    extent: Annotated[
        float | None, typer.Option(help="Reach of a landscape's axes; 1, or the path's own by default.")
    ] = None,
    radius: Annotated[float, typer.Option(help="Of sharpness, as a share of each filter's norm.")] = 0.01,
    reference: Annotated[
        Path | None, typer.Option(help="A text file, or a folder of scored pairs, to see what was forgotten.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random directions and draws.")] = 0,
    resume: options.Resume = False,
    out: Annotated[Path | None, typer.Option(help="Folder for an adapter's diagnosis; a new one by default.")] = None,
    json: options.Json = False,
) -> None:
    """Look at finished runs: gaps, intruders, spectra, landscapes, links, and what was forgotten.

    Writes diagnosis.json into each run directory, where `lopsided report` finds it.
    """
    from lopsided_cli.shared import BadInput, print_json, verb

    with verb():
        from lopsided.diagnose import DiagnoseConfig, LandscapeConfig, diagnose_adapter, diagnose_runs, section_names

        config = DiagnoseConfig(
            only=section_names() if only is None else tuple(name.strip() for name in only.split(",")),
            top=top,
            all_vectors=all_vectors,
            landscape=LandscapeConfig(
                points=points,
                rows=rows,
                hessian_rows=hessian_rows,
                directions=directions,
                extent=extent,
                radius=radius,
                seed=seed,
            ),
            reference=reference,
            seed=seed,
        )
        command = " ".join(["lopsided", *sys.argv[1:]])
        if bool(runs) == (adapter is not None):
            raise BadInput("expected run directories, or --adapter with --base, and not both; name one of them")
        if (adapter is None) != (base is None):
            raise BadInput("--adapter and --base belong together: the folder of an adapter, and its model; give both")
        if adapter is None:
            if out is not None:
                raise BadInput("--out is for --adapter: a run's diagnosis is written into its folder; leave it out")
            diagnoses = diagnose_runs(runs or [], config, resume=resume, command=command, note=_note)
        else:
            assert base is not None
            folder = out or options.free_folder("lopsided-diagnosis")
            diagnoses = {folder: diagnose_adapter(adapter, base, folder, config, command=command, note=_note)}
        if json:
            listed = list(diagnoses.values())
            print_json(listed[0] if len(listed) == 1 else listed)
            return
        _print_table(diagnoses)


def _note(text: str) -> None:
    typer.echo(f"diagnose: {text}", err=True)


def _print_table(diagnoses: dict[Path, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lopsided.diagnose.tables import cells, headings
    from lopsided.files.strict_json import reasons

    table = Table(title="What the runs became", title_justify="left")
    for heading in headings():
        table.add_column(heading, overflow="fold")
    for diagnosis in diagnoses.values():
        table.add_row(*cells(diagnosis))
    # A pipe has no width: give the table room there, and the terminal's width elsewhere.
    Console(width=None if Console().is_terminal else 150).print(table)
    for folder, diagnosis in diagnoses.items():
        for section, why in diagnosis["skipped"].items():
            print(f"{diagnosis['run']['name']}: no {section}: {why}")
        for place, why in reasons(diagnosis).items():
            print(f"{diagnosis['run']['name']}: – {place}: {why}")
        print(f"wrote {folder / 'diagnosis.json'}")
