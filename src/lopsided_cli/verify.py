"""`lopsided verify`: whether a saved adapter, run or model is whole, and fits its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lopsided_cli import options


def verify(
    folder: Annotated[Path, typer.Argument(help="An adapter's folder, a run directory, or a model's folder.")],
    base: Annotated[
        str | None, typer.Option(help="Load the adapter on this model: embedded, smollm2, a folder, or a hub name.")
    ] = None,
    allow_base_mismatch: Annotated[bool, typer.Option(help="With --base: don't compare the base's weights.")] = False,
    json: options.Json = False,
) -> None:
    """Check that a saved adapter, run or model is whole and safe to open; exits with 2 if not."""
    from lopsided_cli.shared import BadInput, print_json, verb

    with verb():
        from lopsided.verify import verify as run

        if allow_base_mismatch and base is None:
            raise BadInput("--allow-base-mismatch needs a base to compare with; give --base, or leave it out")
        report = run(folder, base, allow_base_mismatch=allow_base_mismatch)
        if json:
            print_json(report)
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"{report['folder']}: {report['kind']}, no fault found", title_justify="left")
        for heading in ("checked", "found"):
            table.add_column(heading, no_wrap=heading == "checked", overflow="fold")
        for what, found in report["checks"].items():
            table.add_row(what, found)
        # A pipe has no width: give the table room there, and the terminal's width elsewhere.
        Console(width=None if Console().is_terminal else 150).print(table)
        for note in report["notes"]:
            print(f"note: {note}")
