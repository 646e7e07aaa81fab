"""`lopsided diagnose`: what a finished run looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import MISSING, figure, print_json, print_table

HEADINGS = ("run", "G(W)", "intruders", "‖ΔW‖", "stable rank", "rise in radius", "top eigenvalue", "base's own score")


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
    from lopsided.diagnose import SECTIONS, DiagnoseConfig, Surroundings, diagnose_adapter, diagnose_runs

    config = DiagnoseConfig(
        only=SECTIONS if only is None else tuple(name.strip() for name in only.split(",")),
        top=top,
        all_vectors=all_vectors,
        around=Surroundings(
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
    asked: dict[str, Any] = {"command": options.command_line(), "note": _note}
    if bool(runs) == (adapter is not None):
        raise BadInput("expected run directories, or --adapter with --base, and not both; name one of them")
    if (adapter is None) != (base is None):
        raise BadInput("--adapter and --base belong together: the folder of an adapter, and its model; give both")
    if adapter is None:
        if out is not None:
            raise BadInput("--out is for --adapter: a run's diagnosis is written into its folder; leave it out")
        found = diagnose_runs(runs or [], config, resume=resume, **asked)
    else:
        assert base is not None
        folder = out or options.free_folder("lopsided-diagnosis")
        found = {folder: diagnose_adapter(adapter, base, folder, config, **asked)}
    if json:
        listed = list(found.values())
        print_json(listed[0] if len(listed) == 1 else listed)
        return
    _tell(found)


def _note(text: str) -> None:
    typer.echo(f"diagnose: {text}", err=True)


def _tell(found: dict[Path, dict[str, Any]]) -> None:
    from lopsided.files.strict_json import reasons

    print_table(HEADINGS, [summary(diagnosis) for diagnosis in found.values()], title="What the runs became")
    for folder, diagnosis in found.items():
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
