"""`lopsided models`: the table of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lopsided_cli import options
from lopsided_cli.printing import print_json, print_table

if TYPE_CHECKING:
    from lopsided.models.registry import KnownModel


def models(json: options.Json = False) -> None:
    """Print the models that are known by name; any folder or Hugging Face name will do as well.

    A model's tiny random twin, of the same architecture and with no knowledge, has its name with twin: before it.
    """
    from lopsided.models.registry import MODELS

    table = {name: _facts(entry) for name, entry in MODELS.items()}
    if json:
        print_json([{"name": name, **facts} for name, facts in table.items()])
        return
    print_table(
        ("model", "comes from", "family", "parameters", "kinds of task", "query and value", "note"),
        [
            (
                name,
                facts["hub"] or f"PyPI: {facts['package']}",
                facts["family"],
                "-" if facts["parameters"] is None else f"{facts['parameters'] / 1e6:,.0f} M",
                ", ".join(facts["kinds"]),
                ", ".join(facts["targets"]),
                "; ".join(filter(None, ["gated" if facts["gated"] else "", facts["note"]])),
            )
            for name, facts in table.items()
        ],
        unbroken=("model", "parameters"),
    )


def _facts(entry: KnownModel) -> dict[str, Any]:
    from lopsided.models.skeleton import parameters_of

    family = entry.architecture
    return {
        "hub": entry.hub or None,
        "revision": entry.revision if entry.hub else None,
        "package": None if entry.package is None else entry.package.wheel.requirement,
        "family": entry.family,
        "modality": family.modality,
        "kinds": list(family.kinds),
        "targets": list(family.targets),
        "parameters": parameters_of(entry) if entry.sizes else None,
        "gated": entry.gated,
        "note": entry.note,
    }
