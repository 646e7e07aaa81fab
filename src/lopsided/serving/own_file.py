"""The files of a saved adapter of ours, read after every check that needs no base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.files.manifest import KEY, PEFT_PREFIX, Manifest, unseal
from lopsided.files.patterns import check_patterns
from lopsided.files.untrusted import ADAPTER_CONFIG, open_tensors, weights_in
from lopsided.finite import check_finite
from lopsided.method import LETTERS
from lopsided.tuner import LopsidedConfig
from lopsided.tuner.kinds.parameter import MatrixKind
from lopsided.tuner.state_modules import parse_key


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnFile:
    """The checked content of a saved adapter's folder.

    Args:
        config: its configuration.
        manifest: its hashes; None for a file of version 0.1.0 or one whose manifest was dropped.
        is_pefts: whether the manifest lies where PEFT's loader finds it.
        tensors: by their names in the file.
        layers: the tensors of each adapted module, by module and kind, such as "A" or "checksum".
        others: the other tensors, by their names in the file.
    """

    config: LopsidedConfig
    manifest: Manifest | None
    is_pefts: bool
    tensors: Mapping[str, Tensor]
    layers: Mapping[str, Mapping[str, Tensor]]
    others: Mapping[str, Tensor]

    @property
    def link(self) -> int:
        """The link that the adapter stands at."""
        links = (kinds["checksum"].numel() for kinds in self.layers.values() if "checksum" in kinds)
        return max(links, default=1) - 1


def read_own_file(folder: Path) -> OwnFile:
    """Read a saved adapter's folder after every check that needs no base.

    Raises:
        LopsidedError: for what is damaged, not ours, or contradicts itself.
    """
    config = LopsidedConfig.from_pretrained(str(folder))
    weights = weights_in(folder)
    with open_tensors(weights):
        saved = load_file(weights)
    manifest, tensors = unseal(saved)
    if manifest is not None:
        manifest.check_tensors(tensors)
    layers: dict[str, dict[str, Tensor]] = {}
    others = {}
    for name, tensor in tensors.items():
        place = parse_key(name.removeprefix(PEFT_PREFIX))
        if place is None:
            others[name] = tensor
        else:
            layers.setdefault(place[0], {})[place[1]] = tensor
    if not layers:
        raise LopsidedError(f"{folder} holds no tensors of an adapter of lopsided; get the folder again")
    check_patterns(config.patterns(), sorted(layers))
    if manifest is not None:
        scales = [_rank_and_scale(config, module, layers[module]) for module in sorted(layers)]
        manifest.check_owner(config.as_method(), scales, ADAPTER_CONFIG)
    for name, tensor in tensors.items():
        check_finite(name, tensor, fix="go back to an earlier save")
    return OwnFile(
        config=config,
        manifest=manifest,
        is_pefts=f"{PEFT_PREFIX}{KEY}" in saved,
        tensors=tensors,
        layers={module: layers[module] for module in sorted(layers)},
        others=others,
    )


def _rank_and_scale(config: LopsidedConfig, module: str, tensors: Mapping[str, Tensor]) -> tuple[int, float]:
    """Return (r, s) of what a file holds of one module.

    Parts of one parameter may be adapted as one matrix, whose rank is the sum of theirs: the tensors say it.
    """
    r, scaling = config.rank_and_scale(module)
    if (config.kinds or {}).get(module) != MatrixKind.word:
        return r, scaling
    # B is (d_out, r), A and C are (r, d).
    ranks = [tensors[letter].shape[-1 if letter == "B" else 0] for letter in LETTERS if letter in tensors]
    return (ranks[0] if ranks else r), scaling
