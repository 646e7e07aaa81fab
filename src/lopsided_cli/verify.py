"""`lopsided verify`: whether a saved adapter, run or model is whole, and fits its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lopsided_cli import options
from lopsided_cli.failures import BadInput
from lopsided_cli.printing import print_json, print_table


def verify(
    folder: Annotated[Path, typer.Argument(help="An adapter's folder, a run directory, or a model's folder.")],
    base: Annotated[
        str | None, typer.Option(help="Load the adapter on this model: embedded, smollm2, a folder, or a hub name.")
    ] = None,
    allow_base_mismatch: Annotated[bool, typer.Option(help="With --base: don't compare the base's weights.")] = False,
    json: options.Json = False,
) -> None:
    """Check that a saved adapter, run or model is whole and safe to open; exits with 2 if not."""
    from lopsided.verify import verify as run

    if allow_base_mismatch and base is None:
        raise BadInput("--allow-base-mismatch needs a base to compare with; give --base, or leave it out")
    report = run(folder, base, allow_base_mismatch=allow_base_mismatch)
    if json:
        print_json(report)
        return
    title = f"{report['folder']}: {report['kind']}, no fault found"
    print_table(("checked", "found"), list(report["checks"].items()), title=title, unbroken=("checked",))
    for note in report["notes"]:
        print(f"note: {note}")
