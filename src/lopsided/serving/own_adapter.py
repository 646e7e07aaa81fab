"""A saved adapter of ours as low-rank updates, from its files alone wherever they suffice.

Notation: link t adds s·B_t·A_t, so ΔW = s·[B_1 … B_k]·[A_1; …; A_k], of rank Σ r_t.

A file holds what was trained, and either a sketch's numbers, its indices, or the seed that draws them again. Drawing
them and writing a selector out takes the widths (d_out, d_in) of the layer. Where one factor alone is in the file, the
other width stands in the fingerprints of the base's weights, of which the file says which layers they are of in no
order: a layer's widths are those of the fingerprints that fit its tensors, and its sketches' checksums. Where several
fit, the base's configuration decides, and where a sketch reads W0, its weights.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.files.fingerprint import check_line
from lopsided.files.manifest import KEY, PEFT_PREFIX, Manifest, unseal
from lopsided.files.patterns import check_patterns
from lopsided.files.untrusted import ADAPTER_CONFIG, open_tensors, weights_in
from lopsided.finite import check_finite
from lopsided.method import Method
from lopsided.method.sketch import Stored
from lopsided.serving.lora_tensors import SavedUpdates, split_bases
from lopsided.serving.low_rank import LowRankUpdate
from lopsided.tuner import LopsidedConfig
from lopsided.tuner.adapter import Adapter
from lopsided.tuner.packing import check_complete, unpack
from lopsided.tuner.state_modules import parse_key

Widths = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OwnFile:
    """The checked content of a saved adapter's folder.

    Args:
        config: its configuration.
        manifest: its hashes; None for a file of version 0.1.0 or one whose manifest was dropped.
        is_pefts: whether the manifest lies where PEFT's loader finds it.
        tensors: by their names in the file.
        layers: by module, what each holds, by what it is.
        others: by their names in the file.
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
        manifest.check_owner(config.as_method(), map(config.rank_and_scale, sorted(layers)), ADAPTER_CONFIG)
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


def read_own(folder: Path, skeleton: Callable[[], nn.Module], base: Callable[[], nn.Module]) -> SavedUpdates:
    """Return a saved adapter's updates.

    Args:
        folder: with its configuration and tensors.
        skeleton: builds its base without weights; called where the files leave a layer's widths open.
        base: loads its base; called where a sketch reads W0 and the file does not hold it.

    Raises:
        LopsidedError: for what is damaged, and what the two raise.
    """
    file = read_own_file(folder)
    if file.manifest is None:
        warnings.warn(
            f"{folder} was saved without a manifest, so damage to it can't be seen", LopsidedWarning, stacklevel=2
        )
    config, method = file.config, _without_needless_draws(file.config.as_method())
    sketch = method.sketch
    layers: Mapping[str, LowRankUpdate]
    transposed: bool | None
    if sketch is not None and sketch.reads_weight and not sketch.stored:
        layers, transposed = _updates_on(base(), file, method)
    else:
        alone = _updates_of_files(file, method)
        layers, transposed = (alone, None) if alone is not None else _updates_on(skeleton(), file, method)
    others, bases = split_bases(file.others)
    chain = f", link {file.link}" if method.chain is not None else ""
    return SavedUpdates(
        layers=layers,
        others=others,
        bases=bases,
        what=f"{config.method}, r={config.r}{chain}",
        transposed=transposed,
        task_type=config.task_type,
        modules_to_save=config.modules_to_save,
        base=config.base_model_name_or_path,
        auto_mapping=config.auto_mapping,
        fingerprints=config.base,
    )


# -- a layer -------------------------------------------------------------------------------------------------------


def _without_needless_draws(method: Method) -> Method:
    """Return the method with a sketch that is not drawn again where it was only a factor's start, read off W0."""
    sketch = method.sketch
    if sketch is None or method.adapter_side.keeps_sketch or not sketch.reads_weight:
        return method
    parts = {field.name: getattr(method, field.name) for field in dataclasses.fields(Method) if field.init}
    return Method(**{**parts, "sketch": Stored(kind=type(sketch).__name__)})


def _update(
    file: OwnFile, method: Method, module: str, kinds: Mapping[str, Tensor], shape: Widths, weight: np.ndarray | None
) -> LowRankUpdate:
    """Return s·Σ B_t·A_t of one layer in float32.

    Raises:
        LopsidedError: if a tensor is missing, of another shape, or if a redrawn sketch has another checksum.
    """
    r, scaling = file.config.rank_and_scale(module)
    adapter = Adapter(
        module=module,
        method=method,
        d_out=shape[0],
        d_in=shape[1],
        r=r,
        scaling=scaling,
        seed=0,
        links=None,
        merge_links=None,
    )
    adapter.check_rank()
    check_complete(adapter, kinds)
    missing = [letter for letter in adapter.letters if letter not in kinds]
    if missing:
        raise LopsidedError(f"{module}: the file lacks the trained factor {missing[0]}; get the adapter again")
    loaded = unpack(adapter, kinds, weight)
    trained = {letter: kinds[letter].float() for letter in adapter.letters}
    terms = [*loaded.past_terms(), loaded.term(loaded.side, trained, loaded.sketches[-1].factor)]
    pairs = [term.dense() for term in terms]
    A, B = torch.cat([A.float() for A, _ in pairs]), torch.cat([B.float() for _, B in pairs], dim=1)
    return LowRankUpdate(A.contiguous(), (B * scaling).contiguous())


# -- widths ----------------------------------------------------------------------------------------------------------


def _updates_of_files(file: OwnFile, method: Method) -> dict[str, LowRankUpdate] | None:
    """Return each layer's update from the files alone; None where they leave a layer's widths open.

    Raises:
        LopsidedError: if no widths that the files name fit a layer.
    """
    # The fingerprint of a weight begins with its shape (d_out, d_in), also where the base stores it transposed.
    noted = {_shape_in(line) for line in file.config.base or ()}
    updates: dict[str, LowRankUpdate] = {}
    for module, kinds in file.layers.items():
        both = "A" in kinds and "B" in kinds
        known = {(len(kinds["B"]), kinds["A"].shape[-1])} if both else noted
        fitting = list(_fitting(file, method, module, sorted(known)))
        if len(fitting) != 1:
            return None
        updates[module] = fitting[0]
    return updates


def _shape_in(line: str) -> Widths:
    """Return the shape that a fingerprint begins with.

    Raises:
        LopsidedError: if it is none.
    """
    check_line(line)
    rows, _, columns = line.partition(" ")[0].partition("x")
    if not rows.isdecimal() or not columns.isdecimal():
        raise LopsidedError(f"{ADAPTER_CONFIG} has the fingerprint {line!r:.60} of no matrix; get the adapter again")
    return int(rows), int(columns)


def _fitting(file: OwnFile, method: Method, module: str, pairs: Sequence[Widths]) -> Iterator[LowRankUpdate]:
    """Yield the layer's update for each of these widths that its tensors and its sketches' checksums fit.

    Raises:
        LopsidedError: what is wrong with the tensors for the last of the widths, if none fits.
    """
    kinds, side = file.layers[module], method.adapter_side
    r, _ = file.config.rank_and_scale(module)
    fits, wrong = False, None
    for pair in pairs:
        shapes = side.shapes(*pair, r)
        if any(letter in kinds and tuple(kinds[letter].shape) != shapes[letter] for letter in side.letters):
            continue
        try:
            update = _update(file, method, module, kinds, pair, None)
        except LopsidedError as error:
            # Other widths draw another sketch, and an index may lie outside of them.
            wrong = error
            continue
        fits = True
        yield update
    if wrong is not None and not fits:
        raise wrong


def _updates_on(model: nn.Module, file: OwnFile, method: Method) -> tuple[dict[str, LowRankUpdate], bool]:
    """Return each layer's update with the widths, and where they are there the weights, of its base.

    Also whether the base stores weights transposed.

    Raises:
        LopsidedError: if the base has no such linear layer, or others than the fingerprints say, or its tensors do not
            fit it.
    """
    modules = dict(model.named_modules())
    layers = {}
    for name in file.layers:
        module = modules.get(name)
        if not isinstance(module, nn.Linear | Conv1D):
            got = "no module" if module is None else f"a {type(module).__name__}"
            raise LopsidedError(
                f"the base has {got} named {name}, expected a linear layer, which the adapter is on; name the base "
                "that it was trained on with --base"
            )
        layers[name] = module
    shapes = {name: _shape_of(module) for name, module in layers.items()}
    _check_noted(file, shapes.values())
    updates = {
        name: _update(file, method, name, file.layers[name], shapes[name], _weight_of(module))
        for name, module in layers.items()
    }
    return updates, any(isinstance(module, Conv1D) for module in layers.values())


def _check_noted(file: OwnFile, shapes: Iterable[Widths]) -> None:
    """Raise for a base whose weights have other shapes than the fingerprints say, as one of another size."""
    noted, found = Counter(map(_shape_in, file.config.base or ())), Counter(shapes)
    if noted and found != noted:
        odd = min((noted - found) or (found - noted))
        raise LopsidedError(
            f"the base is another one: the adapter was saved on {noted[odd]} weights of shape {odd[0]}x{odd[1]}, this "
            f"base has {found[odd]} in the same layers; name the base that it was trained on with --base"
        )


def _shape_of(module: nn.Linear | Conv1D) -> Widths:
    """Return (d_out, d_in)."""
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def _weight_of(module: nn.Linear | Conv1D) -> np.ndarray | None:
    """Return W0 as (d_out, d_in); None where it has no numbers."""
    if module.weight.is_meta:
        return None
    weight = module.weight.detach().float().cpu()
    return (weight.T if isinstance(module, Conv1D) else weight).numpy()
