"""`lopsided diagnose`: what a finished run looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import print_json, print_table
from lopsided_settings.diagnose import DiagnoseSettings, LandscapeSettings


@options.options_of(DiagnoseSettings, LandscapeSettings)
def diagnose(
    settings: options.Values,
    landscape: options.Values,
    runs: Annotated[list[Path] | None, typer.Argument(help="Run directories, or folders of them.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A saved LoRA adapter, instead of runs; with --base.")] = None,
    base: Annotated[str | None, typer.Option(help="The adapter's model: a name or a folder.")] = None,
    only: Annotated[str | None, typer.Option(help="Sections separated by commas; all by default.")] = None,
    resume: options.Resume = False,
    out: Annotated[Path | None, typer.Option(help="Folder for an adapter's diagnosis; a new one by default.")] = None,
    json: options.Json = False,
) -> None:
    """Look at finished runs: gaps, intruders, spectra, landscapes, links, and what was forgotten.

    Writes diagnosis.json into each run directory, where `lopsided report` finds it.
    """
    from lopsided.diagnose import DiagnoseConfig, LandscapeConfig, diagnose_adapter, diagnose_runs, section_names

    config = DiagnoseConfig(
        **settings,
        only=section_names() if only is None else tuple(name.strip() for name in only.split(",")),
        landscape=LandscapeConfig(**landscape, seed=settings["seed"]),
    )
    command = options.command_line()
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
    _print_diagnoses(diagnoses)


def _note(text: str) -> None:
    typer.echo(f"diagnose: {text}", err=True)


def _print_diagnoses(diagnoses: dict[Path, dict[str, Any]]) -> None:
    from lopsided.diagnose.tables import cells, headings
    from lopsided.files.strict_json import reasons

    print_table(headings(), [cells(diagnosis) for diagnosis in diagnoses.values()], title="What the runs became")
    for folder, diagnosis in diagnoses.items():
        for section, why in diagnosis["skipped"].items():
            print(f"{diagnosis['run']['name']}: no {section}: {why}")
        for place, why in reasons(diagnosis).items():
            print(f"{diagnosis['run']['name']}: – {place}: {why}")
        print(f"wrote {folder / 'diagnosis.json'}")
