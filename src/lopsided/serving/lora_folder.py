"""A LoRA adapter for a server as a folder: its updates at the server's ranks, its configuration, and what was lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lopsided.export import plain_lora_config
from lopsided.files.atomic import write_json
from lopsided.files.manifest import PEFT_PREFIX
from lopsided.files.untrusted import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_json
from lopsided.serving.lora_tensors import SavedUpdates
from lopsided.serving.low_rank import LowRankUpdate, relative
from lopsided.serving.servers import Server


@dataclass(frozen=True, kw_only=True)
class RankChange:
    """The effect of giving every layer another rank.

    Args:
        rank: the highest that is written.
        was: the highest before: the sum of the links' ranks of a chain.
        layers: ‖ΔW − ΔW'‖ / ‖ΔW‖ of each layer, in Frobenius' norm; 0 where it was only padded with zeros.
        total: the same of all layers together.
    """

    rank: int
    was: int
    layers: Mapping[str, float]
    total: float


def fitted(updates: SavedUpdates, server: Server, rank: int | None) -> tuple[dict[str, LowRankUpdate], RankChange]:
    """Return the updates at ranks that a server takes, and what that has changed.

    Args:
        rank: that all layers get: by truncation where theirs is higher, by zeros where it is lower. None keeps ranks
            for a server that takes several, and pads to the lowest rank that is served otherwise.

    Raises:
        LopsidedError: if the server is not started for such a rank.
    """
    if rank is not None:
        server.check_rank(rank)
    elif not server.one_rank:
        return dict(updates.layers), _unchanged(updates, updates.rank)
    target = server.served_rank(updates.rank) if rank is None else rank
    layers = {
        name: update.padded(target) if update.rank <= target else update.truncated(target)
        for name, update in updates.layers.items()
    }
    if target >= updates.rank:
        return layers, _unchanged(updates, target)
    return layers, _change(updates, layers, target)


def _unchanged(updates: SavedUpdates, rank: int) -> RankChange:
    return RankChange(rank=rank, was=updates.rank, layers=dict.fromkeys(updates.layers, 0.0), total=0.0)


def _change(updates: SavedUpdates, layers: Mapping[str, LowRankUpdate], rank: int) -> RankChange:
    norms = {name: update.norm() for name, update in updates.layers.items()}
    # Zeros change nothing; measuring them would find the rounding of the measurement.
    distances = {
        name: update.distance(layers[name]) if update.rank > rank else 0.0 for name, update in updates.layers.items()
    }
    return RankChange(
        rank=rank,
        was=updates.rank,
        layers={name: relative([distances[name]], [norms[name]]) for name in layers},
        total=relative(distances.values(), norms.values()),
    )


def error_at(updates: SavedUpdates, rank: int) -> float:
    """Return the relative error in Frobenius' norm, over all layers, that truncating to a rank would make."""
    layers = {name: update.truncated(rank) if update.rank > rank else update for name, update in updates.layers.items()}
    return _change(updates, layers, rank).total


def write_lora(folder: Path, updates: SavedUpdates, layers: Mapping[str, LowRankUpdate], server: Server) -> None:
    """Write the tensors and the configuration that stock PEFT, and the server, read.

    Args:
        folder: to write into; it exists.
        layers: the updates at the ranks to write, of modules that the server takes.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, update in layers.items():
        factors = updates.factors(name, update)
        tensors |= {f"{PEFT_PREFIX}{name}.{what}": factor.contiguous() for what, factor in factors.items()}
        # Of a convolution in groups it is a multiple of the update's.
        ranks[name] = len(next(iter(factors.values())))
    others = {**updates.others, **(updates.bases if server.heads else {})}
    tensors |= {name: tensor.contiguous() for name, tensor in others.items()}
    config = plain_lora_config(
        ranks,
        _target_modules(list(layers), expression=server.expression),
        transposed=bool(updates.transposed),
        # PEFT adds the names that it knows for a task at every load.
        modules_to_save=list(dict.fromkeys(updates.modules_to_save or ())) or None if server.heads else None,
        task_type=updates.task_type,
        base=updates.base,
    )
    config.auto_mapping = updates.auto_mapping
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    # PEFT keeps names in a set, whose order differs from one process to the next.
    written = read_json(folder / ADAPTER_CONFIG)
    names = written["target_modules"]
    write_json(
        folder / ADAPTER_CONFIG, {**written, "target_modules": names if isinstance(names, str) else sorted(names)}
    )


def _target_modules(names: list[str], *, expression: bool) -> list[str] | str:
    """Return the adapted modules by name, or as one expression where PEFT might match the end of another name.

    PEFT takes a name for every module that ends with it after a dot. What else the model has is not known here; names
    with dots are whole paths, and a name without one may well be the end of another.
    """
    if expression and any("." not in name for name in names):
        return "|".join(re.escape(name) for name in sorted(names))
    return sorted(names)
