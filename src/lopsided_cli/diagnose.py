"""`lopsided diagnose`: what a finished run looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import MISSING, figure, print_json, print_table
from lopsided_settings.diagnose import DiagnoseSettings, LandscapeSettings

HEADINGS = ("run", "G(W)", "intruders", "‖ΔW‖", "stable rank", "rise in radius", "top eigenvalue", "base's own score")


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
    from lopsided.diagnose import SECTIONS, DiagnoseConfig, Surroundings, diagnose_adapter, diagnose_runs

    config = DiagnoseConfig(
        **settings,
        only=SECTIONS if only is None else tuple(name.strip() for name in only.split(",")),
        around=Surroundings(**landscape, seed=settings["seed"]),
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
    from lopsided.files.strict_json import reasons

    print_table(HEADINGS, [summary(diagnosis) for diagnosis in diagnoses.values()], title="What the runs became")
    for folder, diagnosis in diagnoses.items():
        for section, why in diagnosis["skipped"].items():
            print(f"{diagnosis['run']['name']}: no {section}: {why}")
        for place, why in reasons(diagnosis).items():
            print(f"{diagnosis['run']['name']}: – {place}: {why}")
        print(f"wrote {folder / 'diagnosis.json'}")


def summary(diagnosis: dict[str, Any]) -> list[str]:
    """A diagnosis as one row; a dash for what it does not have, or could not compute."""
    gap = (diagnosis.get("generalization") or {}).get("G")
    intruders, layers = diagnosis.get("intruders"), diagnosis.get("layers")
    sharpness = (diagnosis.get("landscape") or {}).get("sharpness", {})
    forgetting = diagnosis.get("forgetting")
    return [
        diagnosis["run"]["name"],
        MISSING
        if gap is None
        else "{} [{}, {}]".format(*(figure(gap[end], ".3f") for end in ("value", "low", "high"))),
        _at_half(intruders) if intruders else MISSING,
        _norm(layers) if layers else MISSING,
        _mean_of(layers, "stable_rank") if layers else MISSING,
        figure(sharpness.get("largest")),
        _eigenvalue(sharpness),
        _forgotten(forgetting) if forgetting else MISSING,
    ]


def _at_half(intruders: dict[str, Any]) -> str:
    """The mean count at the ε nearest to a half, of all vectors where they were looked at."""
    place = min(range(len(intruders["epsilons"])), key=lambda i: abs(intruders["epsilons"][i] - 0.5))
    counted = intruders["all"] or intruders["top_k"]
    of = "" if intruders["all"] else f" of the first {intruders['top']}"
    # Absent in files of version 0.1.0, which counted all layers or none.
    layers = intruders.get("layers", {"counted": 0, "of": 0})
    part = "" if layers["counted"] == layers["of"] else f", {layers['counted']} of {layers['of']} layers"
    return f"{figure(counted['mean'][place], '.2f')}{of} (ε = {intruders['epsilons'][place]:g}{part})"


def _norm(layers: list[dict[str, Any]]) -> str:
    """‖ΔW‖ over all layers; without one of them there is none."""
    norms = [layer["delta"]["frobenius"] for layer in layers]
    return MISSING if None in norms else figure(sum(norm**2 for norm in norms) ** 0.5)


def _mean_of(layers: list[dict[str, Any]], name: str) -> str:
    """The mean over the layers that have the figure, and how many these are if not all do."""
    known = [layer["delta"][name] for layer in layers if layer["delta"][name] is not None]
    part = "" if len(known) == len(layers) else f" ({len(known)} of {len(layers)} layers)"
    return f"{sum(known) / len(known):.2f}{part}" if known else MISSING


def _eigenvalue(sharpness: dict[str, Any]) -> str:
    """With its residual where Lanczos had not converged."""
    text = figure(sharpness.get("hessian_top"))
    # Absent in files of version 0.1.0.
    if sharpness.get("hessian_converged", True) is False:
        text += f" (± {figure(sharpness['hessian_residual'])}, not converged)"
    return text


def _forgotten(forgetting: dict[str, Any]) -> str:
    ends = (figure(forgetting[name], ".3f") for name in ("base", "tuned"))
    return "{} to {}".format(*ends) + f" ({forgetting['metric']})"
