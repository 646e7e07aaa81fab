"""`lopsided export`: an adapter as one plain LoRA adapter, for PEFT or a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lopsided_cli import options
from lopsided_cli.printing import print_json, print_table

if TYPE_CHECKING:
    from lopsided.serving import Exported

# Layers that are printed; export.json has them all.
SHOWN = 12


def export(
    source: Annotated[Path, typer.Argument(help="A run directory, or the folder of any saved adapter.")],
    server: Annotated[
        str, typer.Option("--for", help="Who loads it: peft, vllm, sglang or gguf (llama.cpp).")
    ] = "peft",
    rank: Annotated[
        int | None, typer.Option(help="Rank of every layer, by truncated SVD; by default nothing is lost.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base model, if the one that the source names is not on this machine.")
    ] = None,
    probe: Annotated[bool, typer.Option(help="Write probe.json: how base and adapter answer a few prompts.")] = True,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Write an adapter, chains included, as a LoRA adapter that stock PEFT and servers load."""
    from lopsided.serving import export_adapter

    exported = export_adapter(source, out, server=server, rank=rank, base=base, probe=probe)
    if json:
        print_json(exported.to_json())
        return
    print(f"wrote a LoRA adapter of rank {exported.change.rank} to {exported.path}")
    _print_errors(exported)
    for note in exported.notes:
        print(f"note: {note}")


def _print_errors(exported: Exported) -> None:
    change = exported.change
    if change.rank >= change.was:
        return
    errors = sorted(change.layers.items(), key=lambda item: item[1], reverse=True)
    rows = [(name, f"{error:.3g}") for name, error in errors[:SHOWN]]
    left = len(errors) - len(rows)
    rows += [(f"{left} more, in export.json", f"up to {errors[SHOWN][1]:.3g}")] if left > 0 else []
    title = f"from rank {change.was} to {change.rank}: a relative error of {change.total:.3g} in all (Frobenius' norm)"
    print_table(("layer", "relative error"), rows, title=title)
