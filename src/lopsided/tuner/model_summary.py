"""A model with Lopsided adapters as a notebook shows it: its adapters, and the layers that each is on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import nn

from lopsided.formatting import html_table
from lopsided.tuner.layer import LopsidedLinear
from lopsided.tuner.model_queries import layers_of, trained_numbers

# Kinds of layers that are shown; a model with more of them than that is said to have more.
SHOWN = 20


def model_html(model: nn.Module) -> str:
    """Return a table of a model's adapters, and one of their layers: those of one name, shape and rank are one line."""
    layers = layers_of(model)
    names = list(dict.fromkeys(name for layer in layers.values() for name in layer.adapters))
    whole = sum(parameter.numel() for parameter in model.parameters())
    trained = trained_numbers(model)
    share = f"{trained:,} of {whole:,} numbers are trained ({trained / whole:.2%}), heads included"
    kinds = Counter(kind for path, layer in layers.items() for kind in _kinds(path, layer))
    lines = [(*kind, str(number)) for kind, number in kinds.items()]
    left = [f"{len(lines) - SHOWN} more kinds of layers are not shown."] if len(lines) > SHOWN else []
    adapters = html_table(
        ("adapter", "method", "trains", "link", "scale", "active"),
        [_adapter(name, layers) for name in names],
        title=f"Lopsided: {share}",
    )
    heads = ("adapter", "layers named", "d_out x d_in", "r", "how many")
    return adapters + html_table(heads, lines[:SHOWN], below=left)


def _adapter(name: str, layers: Mapping[str, LopsidedLinear]) -> tuple[str, ...]:
    """Return an adapter's line, by the first layer that has it."""
    layer = next(layer for layer in layers.values() if name in layer.adapters)
    adapter = layer.adapters[name]
    links = "-"
    if adapter.method.chain is not None:
        links = f"{adapter.link + 1}" if adapter.links is None else f"{adapter.link + 1} of {adapter.links}"
    scales = {f"{each.scaling[name]:g}" for each in layers.values() if name in each.adapters}
    active = "yes" if name in layer.active_adapters else "no"
    return name, adapter.method.name, adapter.side.word, links, ", ".join(sorted(scales)), active


def _kinds(path: str, layer: LopsidedLinear) -> list[tuple[str, str, str, str]]:
    """Return, for each adapter of a layer, what it has in common with others."""
    shape = f"{layer.out_features} x {layer.in_features}"
    return [(name, path.rpartition(".")[2], shape, str(each.r)) for name, each in layer.adapters.items()]
