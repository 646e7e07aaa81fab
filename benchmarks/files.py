"""How large adapters are on disk, how long they take to load, and what loading a chain costs.

    python -m benchmarks.files [--only cla,c3la] [--quick]

Sizes are those of `adapter_model.safetensors` on a bare encoder, without heads. Loading is
`peft.PeftModel.from_pretrained` onto a base model that is in memory, in shuffled turns; the setting is the encoder
that is loaded onto, and the sizes are measured on four layers of hidden 768.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
from transformers import RobertaModel

import lopsided
from benchmarks.measuring import Benchmark, Interval, Progress, Setting, exact, median_interval, ratio, turns
from benchmarks.targets import cell
from benchmarks.variants import (
    LINEAR,
    LORA,
    adapted,
    adapters,
    chosen,
    encoder,
    groups,
    learn_something,
    representatives,
    split,
)
from benchmarks.writing import figure, markdown, provenance

LINKS = 4
WEIGHTS = "adapter_model.safetensors"


def measure(setting: Setting, only: Sequence[str] | None) -> dict[str, Any]:
    """Return the sizes on disk and the times of loading."""
    variants = chosen(only, adapters(), [LORA])
    small = setting if setting.hidden < 768 else replace(setting, layers=4, hidden=768)
    loaded = chosen(only, representatives(chained=True), [LORA])
    loaded = list(dict.fromkeys([*loaded, *last_links(loaded)]))
    with tempfile.TemporaryDirectory() as folder:
        bytes_of = sizes(variants, small, Path(folder))
        milliseconds = loads(loaded, setting, Path(folder))
    found: dict[str, dict[str, Interval]] = {variant: {} for variant in dict.fromkeys([*variants, *loaded])}
    for variant, mine in bytes_of.items():
        found[variant]["file_to_peft_lora"] = exact(mine["file"] / mine["links"] / bytes_of[LORA]["file"])
    for variant, figures in loading_figures(milliseconds).items():
        found[variant] |= figures
    return {
        "groups": groups(list(found)),
        "figures": found,
        "bytes": bytes_of,
        "milliseconds": milliseconds,
        "sizes_on": {"layers": small.layers, "hidden": small.hidden},
    }


def last_links(variants: Sequence[str]) -> list[str]:
    """Each chained method among the variants at the last of its links: "c3la" -> "c3la@3"."""
    return [f"{name}@{LINKS - 1}" for name in variants if name in adapters(chained=True)]


def saved(variant: str, base: RobertaModel, setting: Setting, folder: Path) -> peft.PeftModel:
    """The variant on the base, at its link, saved into the folder."""
    name, link = split(variant)
    links = LINKS if name in adapters(chained=True) else None
    model = adapted(variant, base, setting.r, LINEAR, links=links)
    assert isinstance(model, peft.PeftModel)
    for _ in range(link):
        learn_something(model)
        lopsided.advance_chain(model)
    learn_something(model)
    model.save_pretrained(str(folder))
    return model


def sizes(variants: Sequence[str], setting: Setting, folder: Path) -> dict[str, dict[str, int]]:
    """Bytes of each adapter's file, with all links of a chain, and of the plain LoRA that it exports as."""
    progress, bytes_of = Progress("files: sizes", len(variants)), {}
    for variant in variants:
        whole = next(iter(last_links([variant])), variant)
        model = saved(whole, encoder(setting), setting, folder / "sizes" / variant)
        bytes_of[variant] = {
            "links": split(whole)[1] + 1,
            "file": (folder / "sizes" / variant / WEIGHTS).stat().st_size,
        }
        if variant != LORA:
            exported = folder / "exported" / variant
            lopsided.to_lora(model, exported)
            bytes_of[variant]["as_lora"] = (exported / WEIGHTS).stat().st_size
        progress.advance(variant)
    return bytes_of


def loads(variants: Sequence[str], setting: Setting, folder: Path) -> dict[str, list[float]]:
    """Milliseconds of loading each adapter, in turns, onto one base model."""
    base, work = encoder(setting), {}
    progress = Progress("files: adapters to load", len(variants))
    for variant in variants:
        where = folder / "loads" / variant
        base = saved(variant, base, setting, where).unload()
        work[variant] = loading(base, where)
        progress.advance(variant)
    return turns(work, setting, "files: loads")


def loading(base: RobertaModel, folder: Path) -> Callable[[], float]:
    """Work for `turns`: load the adapter, and take it off again outside the measured time."""

    def load() -> float:
        start = time.perf_counter()
        model = peft.PeftModel.from_pretrained(base, str(folder))
        milliseconds = 1000.0 * (time.perf_counter() - start)
        assert model.unload() is base
        del model
        gc.collect()
        return milliseconds

    return load


def loading_figures(milliseconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Interval]]:
    """Load times, their ratio to PEFT LoRA's for one-link adapters, and what a chain's other links add."""
    found = {}
    for variant, taken in milliseconds.items():
        found[variant] = {"load_ms": median_interval(taken)}
        name, link = split(variant)
        if not link:
            found[variant]["load_to_peft_lora"] = ratio(milliseconds, variant, LORA)
        elif name in milliseconds:
            extra = [whole - first for whole, first in zip(taken, milliseconds[name], strict=True)]
            found[variant]["merge_ms"] = median_interval(extra)
    return found


def table(result: Mapping[str, Any]) -> str:
    """Return the table of sizes and times, as markdown."""
    rows = []
    for variant, mine in result["bytes"].items():
        where, found = result["groups"].get(variant), result["figures"][variant]
        exported = f"{mine['as_lora'] / 1024:,.0f} KiB" if "as_lora" in mine else ""
        each = cell(found["file_to_peft_lora"], "files", "file_to_peft_lora", where)
        rows.append(
            [f"`{variant}`", where or "", str(mine["links"]), f"{mine['file'] / 1024:,.0f} KiB", each, exported]
        )
    on, setting = result["sizes_on"], result["setting"]
    header = ["variant", "group", "links", "file", "per link, against PEFT LoRA", "as plain LoRA"]
    runs = (
        f"Sizes: r={setting['r']} on {on['layers']} layers of hidden {on['hidden']}. "
        f"Loading: {setting['rounds']} rounds, {setting['layers']} layers of hidden {setting['hidden']}"
    )
    loads = [
        [f"`{variant}`", *(figure(found.get(key), places) for key, places in LOADED)]
        for variant, found in result["figures"].items()
        if "load_ms" in found
    ]
    loaded = ["variant", "ms to load", "against PEFT LoRA", "ms that the links before add"]
    return "\n\n".join([markdown(header, rows), markdown(loaded, loads), provenance(result, runs)])


LOADED = (("load_ms", 0), ("load_to_peft_lora", 2), ("merge_ms", 0))
BENCHMARK = Benchmark(
    name="files",
    measure=measure,
    table=table,
    default=Setting(layers=24, hidden=1024, batch=1, length=8, rounds=10, warmup=2),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
