"""`lopsided export`: a run's adapter as one plain LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lopsided_cli import options
from lopsided_cli.printing import print_json


def export(
    run: Annotated[Path, typer.Argument(help="A run directory of train or compare.")],
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Write a run's adapter, chains included, as a LoRA adapter that stock PEFT loads."""
    from lopsided.runs.exported import export_lora

    folder = out or run / "lora"
    config = export_lora(run, folder)
    if json:
        print_json({"path": str(folder), "rank": config.r})
    else:
        print(f"wrote a LoRA adapter of rank {config.r} to {folder}")
