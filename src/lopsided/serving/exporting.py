"""A run's adapter, or any saved one, as a LoRA adapter for a server, with its card and its probe."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from lopsided.errors import LopsidedError, unknown
from lopsided.export import lora_of, write_lora_files
from lopsided.files.atomic import atomic_folder, write_text
from lopsided.files.model_card import CARD
from lopsided.files.untrusted import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_finite_file, weights_in
from lopsided.models.load import quiet
from lopsided.serving.adapter_source import AdapterSource, open_source
from lopsided.serving.export_card import card
from lopsided.serving.export_record import check_replaceable, write_record
from lopsided.serving.local_answers import make_probe
from lopsided.serving.lora_folder import RankChange, error_at, fitted, write_lora
from lopsided.serving.lora_tensors import SavedUpdates
from lopsided.serving.own_adapter import all_transposed, has_parameters
from lopsided.serving.probe_file import PROBE, Probe
from lopsided.serving.servers import SERVERS, Server
from lopsided.serving.stock_adapter import read_fields
from lopsided.tuner.forward.plain_product import why_no_product
from lopsided.tuner.kinds import kind_of


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export has written.

    Args:
        path: the folder.
        server: a key of `SERVERS`.
        change: its ranks, and what truncation has lost.
        probe: whether it has a probe.
        notes: what its user should know, one sentence each.
    """

    path: Path
    server: str
    change: RankChange
    probe: bool
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "path": str(self.path),
            "rank": self.change.rank,
            "for": self.server,
            "source_rank": self.change.was,
            "error": self.change.total,
            "layers": dict(self.change.layers),
            "probe": self.probe,
            "notes": list(self.notes),
        }


def export_adapter(
    source: str | Path,
    out: str | Path | None = None,
    *,
    server: str = "peft",
    rank: int | None = None,
    base: str | None = None,
    probe: bool = True,
) -> Exported:
    """Write an adapter as LoRA that a server takes, and that stock PEFT loads on the original base.

    ΔW = s·Σ B_t·A_t over a chain's links becomes one product of rank Σ r_t. For a server that reads one rank and one
    scale, all layers get the lowest rank that it serves, by zeros, and the scale goes into B.

    Args:
        source: a run directory, or the folder of a saved adapter: of ours, or of LoRA.
        out: the folder to write; None takes `lora`, or `lora-SERVER`, in the source. An earlier export is replaced when
            the new one is whole; nothing else is.
        server: a key of `SERVERS`.
        rank: the rank of every layer: by truncation of the singular values where theirs is higher, by zeros otherwise.
        base: the base's name, which may then be fetched; None takes what the source says, from this machine alone. It
            is needed for a probe, and where the files leave the layers' widths or a sketch open.
        probe: whether to write a probe, which loads the base in float32.

    Raises:
        LopsidedError: for a source that is damaged or is no low-rank adapter, for what the server does not take, for a
            folder in which something would be lost; with `base`, also where no probe can be made.
    """
    if server not in SERVERS:
        raise LopsidedError(unknown("server", server, SERVERS))
    if rank is not None:
        SERVERS[server].check_rank(rank)
    source = Path(source)
    adapter = open_source(source, base)
    adapter.check_fields()
    folder = Path(out) if out is not None else source / ("lora" if server == "peft" else f"lora-{server}")
    replaced = check_replaceable(folder, adapter.folder)
    copied = server == "peft" and rank is None and adapter.is_stock
    if copied:
        contents = _copied(adapter)
    elif server == "peft" and rank is None and has_parameters(adapter.folder):
        contents = _loaded(adapter)
    else:
        contents = _converted(adapter, SERVERS[server], rank)
    with atomic_folder(folder, replaces=replaced) as new:
        contents.write(new)
        made, missing = _probe(adapter, new, contents, base) if probe else (None, "left out by --no-probe")
        if made is not None:
            made.write(new / PROBE)
        _write_words(new, server, adapter, contents, made)
    reason = () if made is not None or not probe else (f"no probe: {missing}",)
    return Exported(
        path=folder, server=server, change=contents.change, probe=made is not None, notes=(*contents.notes, *reason)
    )


# -- what is written -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Contents:
    """The adapter that an export writes.

    Args:
        what: the adapter that it comes from, in a few words.
        change: its ranks, and what truncation has lost.
        task_type: as in PEFT.
        write: writes the configuration and the tensors to a folder.
        fingerprints: of the base's adapted layers, in the model's order; None where nobody noted them.
        notes: what its user should know.
    """

    what: str
    change: RankChange
    task_type: str | None
    write: Callable[[Path], None]
    fingerprints: list[str] | None = None
    notes: tuple[str, ...] = ()


def _copied(adapter: AdapterSource) -> _Contents:
    """Return an adapter of stock LoRA as it is: what it adds may be more than s·B·A, and PEFT knows it."""
    fields, _ = read_fields(adapter.folder)
    check_finite_file(weights_in(adapter.folder))
    rank = max([fields.r, *(fields.rank_pattern or {}).values()])

    def write(folder: Path) -> None:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(adapter.folder / name, folder / name)

    change = RankChange(rank=rank, was=rank, layers={}, total=0.0)
    return _Contents(what=f"LoRA of PEFT, r={fields.r}", change=change, task_type=fields.task_type, write=write)


def _loaded(adapter: AdapterSource) -> _Contents:
    """Return an adapter on experts or routers, as PEFT holds it on the loaded base.

    Raises:
        LopsidedError: if the base is not at hand, and as `lopsided.to_lora` does.
    """
    with quiet():
        model = PeftModel.from_pretrained(adapter.load(), str(adapter.folder))
    config, tensors = lora_of(model)
    ours = model.peft_config["default"]
    rank = max([config.r, *(config.rank_pattern or {}).values()])
    return _Contents(
        what=f"{ours.method}, r={ours.r}",
        change=RankChange(rank=rank, was=rank, layers={}, total=0.0),
        task_type=config.task_type,
        # Its base was compared with the adapter's note when it was loaded; PEFT's layers are not one per expert.
        write=lambda folder: write_lora_files(folder, config, tensors),
    )


def _converted(adapter: AdapterSource, server: Server, rank: int | None) -> _Contents:
    """Return an adapter's updates at the ranks that a server takes.

    Raises:
        LopsidedError: for an adapter that is damaged, or that the server does not take.
    """
    updates = adapter.updates()
    layers_of_base = _layers_of_base(adapter, updates, needed=updates.transposed is None and not server.transposed)
    if updates.transposed is None and layers_of_base:
        kinds = [kind_of(layer) for layer in layers_of_base.values()]
        updates = dataclasses.replace(updates, transposed=all_transposed(kinds))
    server.check_modules(updates.layers, updates.shaped, transposed=updates.transposed)
    server.check_others(updates.others)
    layers, change = fitted(updates, server, rank)
    return _Contents(
        what=updates.what,
        change=change,
        task_type=updates.task_type,
        write=lambda folder: write_lora(folder, updates, layers, server),
        fingerprints=updates.fingerprints,
        notes=(*_rank_notes(updates, server, change), *_merge_notes(layers_of_base)),
    )


def _layers_of_base(adapter: AdapterSource, updates: SavedUpdates, *, needed: bool) -> dict[str, nn.Module]:
    """Return the adapted layers of the base without weights; {} where its configuration is not at hand.

    Without the configuration it is not known whether the layers store their weights as (d_in, d_out). PEFT corrects an
    adapter's configuration that does not say so, with a warning.

    Raises:
        LopsidedError: if that is needed, and the base's configuration is not at hand.
    """
    try:
        modules = dict(adapter.skeleton("how its layers store their weights").named_modules())
    except LopsidedError:
        if needed:
            raise
        return {}
    return {name: modules[name] for name in updates.layers if name in modules}


def _merge_notes(layers: Mapping[str, nn.Module]) -> Iterator[str]:
    reasons = {name: reason for name, layer in layers.items() if (reason := why_no_product(layer))}
    if reasons:
        [(name, reason), *others] = reasons.items()
        more = f" and {len(others)} more layers" if others else ""
        yield (
            f"merging the exported adapter would change the function in {name}{more}: {reason}; keep it unmerged there"
        )


def _rank_notes(updates: SavedUpdates, server: Server, change: RankChange) -> Iterator[str]:
    if server.default_rank is None or change.rank <= server.default_rank:
        return
    option = server.rank_option.format(rank=change.rank)
    loss = error_at(updates, server.default_rank)
    yield (
        f"rank {change.rank} is above {server.title}'s default of {server.default_rank}: start it with {option}, or "
        f"export with --rank {server.default_rank}, a relative error of {loss:.3g}"
    )


def _probe(adapter: AdapterSource, folder: Path, contents: _Contents, base: str | None) -> tuple[Probe | None, str]:
    """Return the export's probe, or None and why there is none.

    Raises:
        LopsidedError: if none can be made on a base that was named.
    """
    try:
        return make_probe(adapter, folder, contents.fingerprints), ""
    except LopsidedError as error:
        if base is not None:
            raise
        return None, str(error)


def _write_words(folder: Path, server: str, adapter: AdapterSource, contents: _Contents, probe: Probe | None) -> None:
    """Write the card and the record, the latter last: it has the hashes of the others."""
    text = card(
        server,
        what=contents.what,
        base=adapter.base,
        change=contents.change,
        task_type=contents.task_type,
        prompts=None if probe is None else len(probe.prompts),
    )
    write_text(folder / CARD, text)
    write_record(
        folder,
        server=server,
        source=contents.what,
        base=adapter.base,
        rank=contents.change.rank,
        source_rank=contents.change.was,
        error=contents.change.total,
        errors=dict(contents.change.layers),
    )
