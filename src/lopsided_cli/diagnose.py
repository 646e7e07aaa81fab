"""`lopsided diagnose`: what a finished run looks like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import print_json, print_table
from lopsided_settings import settings_of
from lopsided_settings.diagnose import DiagnoseSettings, LandscapeSettings


@options.options_of(DiagnoseSettings, LandscapeSettings)
def diagnose(
    settings: options.Values,
    landscape: options.Values,
    runs: Annotated[list[Path] | None, typer.Argument(help="Run directories, or folders of them.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A saved LoRA adapter, instead of runs; with --base.")] = None,
    base: Annotated[str | None, typer.Option(help="The adapter's model: a name or a folder.")] = None,
    only: Annotated[str | None, typer.Option(help="Sections separated by commas; all by default.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Landscapes on the fine grid and all rows: minutes.")] = False,
    resume: options.Resume = False,
    out: Annotated[Path | None, typer.Option(help="Folder for an adapter's diagnosis; a new one by default.")] = None,
    json: options.Json = False,
) -> None:
    """Look at finished runs: gaps, intruders, spectra, landscapes, links, and what was forgotten.

    Writes diagnosis.json into each run directory, where `lopsided report` finds it. Landscapes are small by default, so
    that a small model's run takes a minute; --full takes the fine grid. A finer diagnosis is kept unless an option
    about the grid is given.
    """
    from rich.console import Console

    from lopsided.diagnose import DiagnoseConfig, LandscapeConfig, diagnose_adapter, diagnose_runs, section_names
    from lopsided_cli.diagnose_progress import progress_of_sections

    small = _small_defaults()
    as_default = not full and not small.keys() & landscape.given.keys() and "all_vectors" not in settings.given
    if full:
        landscape = options.Values({**landscape, **_own(small.keys() - landscape.given.keys())}, landscape.given)
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
    if adapter is None and out is not None:
        raise BadInput("--out is for --adapter: a run's diagnosis is written into its folder; leave it out")
    with progress_of_sections(Console(stderr=True)) as (progress, note):
        shared: dict[str, Any] = {"command": command, "progress": progress}
        if adapter is None:
            diagnoses = diagnose_runs(runs or [], config, resume=resume, keep_closer=as_default, note=note, **shared)
        else:
            assert base is not None
            folder = out or options.free_folder("lopsided-diagnosis")
            diagnoses = {folder: diagnose_adapter(adapter, base, folder, config, **shared)}
    if json:
        listed = list(diagnoses.values())
        print_json(listed[0] if len(listed) == 1 else listed)
        return
    _print_diagnoses(diagnoses)


def _small_defaults() -> dict[str, int]:
    """Return the landscape settings for which this verb has a coarser default, with that default."""
    declared = settings_of(LandscapeSettings).items()
    return {name: each.defaults["diagnose"] for name, each in declared if "diagnose" in each.defaults}


def _own(names: Iterable[str]) -> dict[str, Any]:
    """Return the settings' own defaults, by name."""
    fields = {field.name: field.default for field in dataclasses.fields(LandscapeSettings)}
    return {name: fields[name] for name in names}


def _about_grid(around: Mapping[str, Any]) -> str:
    """Return a note for a landscape on a coarser grid than that of --full; "" for any other."""
    fine = _own(_small_defaults())
    if all(around[name] >= fine[name] for name in fine):
        return ""
    here, there = (
        f"{each['points']} x {each['points']} points on {each['rows']} rows, the Hessian on {each['hessian_rows']}"
        for each in (around, fine)
    )
    return f"a small landscape: {here}; --full takes {there}"


def _print_diagnoses(diagnoses: dict[Path, dict[str, Any]]) -> None:
    from lopsided.diagnose.tables import cells, headings
    from lopsided.files.strict_json import reasons

    print_table(headings(), [cells(diagnosis) for diagnosis in diagnoses.values()], title="What the runs became")
    for folder, diagnosis in diagnoses.items():
        for section, why in diagnosis["skipped"].items():
            print(f"{diagnosis['run']['name']}: no {section}: {why}")
        for place, why in reasons(diagnosis).items():
            print(f"{diagnosis['run']['name']}: – {place}: {why}")
        if "landscape" in diagnosis and (about := _about_grid(diagnosis["settings"]["around"])):
            print(f"{diagnosis['run']['name']}: {about}")
        print(f"wrote {folder / 'diagnosis.json'}")
