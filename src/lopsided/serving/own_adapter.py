"""A saved adapter of ours as low-rank updates, from its files alone wherever they suffice.

Notation: link t adds s·B_t·A_t, so ΔW = s·[B_1 … B_k]·[A_1; …; A_k], of rank Σ r_t.

A file holds what was trained, and either a sketch's numbers, its indices, or the seed that draws them again. Drawing
them and writing a selector out takes the widths (d_out, d_in) of the layer. Where one factor alone is in the file, the
other width is in the fingerprints of the base's weights. The file does not say which fingerprint belongs to which
layer: a layer's widths are those of the fingerprints that fit its tensors and its sketches' checksums. Where several
fit, the base's configuration decides, and where a sketch reads W0, the base's weights do.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.files.fingerprint import check_line
from lopsided.files.untrusted import ADAPTER_CONFIG, read_json
from lopsided.method import Method
from lopsided.method.sketch import Stored
from lopsided.serving.lora_tensors import SavedUpdates, ShapedLayer, split_bases
from lopsided.serving.low_rank import LowRankUpdate
from lopsided.serving.own_file import OwnFile, read_own_file
from lopsided.tuner.adapter import Adapter
from lopsided.tuner.kinds import LayerKind, kind_of
from lopsided.tuner.kinds.linear import LinearKind, TransposedKind
from lopsided.tuner.kinds.parameter import MatrixKind
from lopsided.tuner.packing import check_complete, unpack

Widths = tuple[int, int]
# The kinds whose factors are the matrices themselves.
LINEAR = (LinearKind.word, TransposedKind.word)


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
    sketch, kinds = method.sketch, config.kinds or {}
    # What PEFT holds in another form takes the layer itself.
    shaped = [module for module in file.layers if kinds.get(module, LinearKind.word) not in LINEAR]
    if experts := [module for module in shaped if kinds[module] == MatrixKind.word]:
        raise LopsidedError(
            f"{folder} has an adapter on {experts[0]}, a parameter and no layer, as experts are; expected layers where "
            "ranks change; export it --for peft without --rank"
        )
    alone, modules = None, {}
    if sketch is not None and sketch.reads_weight and not sketch.stored:
        modules = _modules_of(base(), file)
    elif shaped or (alone := _updates_of_files(file, method)) is None:
        modules = _modules_of(skeleton(), file)
    layers = alone if alone is not None else _updates_on(modules, file, method)
    _check_known(file)
    others, bases = split_bases(file.others)
    chain = f", {file.link + 1} links" if method.chain is not None else ""
    return SavedUpdates(
        layers=layers,
        others=others,
        bases=bases,
        what=f"{config.method}, r={config.r}{chain}",
        transposed=_is_transposed(file, modules),
        shaped={module: modules[module] for module in modules if modules[module].kind.word not in LINEAR},
        task_type=config.task_type,
        modules_to_save=config.modules_to_save,
        base=config.base_model_name_or_path,
        auto_mapping=config.auto_mapping,
        fingerprints=config.base,
    )


def has_parameters(folder: Path) -> bool:
    """Return whether an adapter of ours is on parameters that are no layers, as experts are."""
    kinds = read_json(folder / ADAPTER_CONFIG).get("kinds")
    return isinstance(kinds, dict) and MatrixKind.word in kinds.values()


# -- a layer -------------------------------------------------------------------------------------------------------


def _without_needless_draws(method: Method) -> Method:
    """Return the method without redrawing a sketch that was read off W0 only to initialize a factor."""
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


def _modules_of(model: nn.Module, file: OwnFile) -> dict[str, ShapedLayer]:
    """Return the adapted layers of a base.

    Raises:
        LopsidedError: if it has no such layer, or others than the fingerprints say, or one in which stock PEFT's LoRA
            would compute something else.
    """
    modules = dict(model.named_modules())
    layers = {}
    for name in file.layers:
        module = modules.get(name)
        kind = None if module is None else kind_of(module)
        if module is None or kind is None:
            got = "no module" if module is None else f"a {type(module).__name__}"
            raise LopsidedError(
                f"the base has {got} named {name}; expected a layer that the adapter can be put on; name the base that "
                "the adapter was trained on with --base"
            )
        if reason := kind.why_no_lora(module):
            raise LopsidedError(
                f"{name} can't be a LoRA adapter: {reason}, so it would be another function; expected layers in which "
                "both agree; merge the adapter into the model instead, with merge_and_unload"
            )
        layers[name] = ShapedLayer(kind, module)
    noted = Counter(map(_shape_in, file.config.base or ()))
    found = Counter(layer.kind.widths(layer.base) for layer in layers.values())
    if noted and found != noted:
        odd = min((noted - found) or (found - noted))
        raise LopsidedError(
            f"the base is another one: the adapter was saved on {noted[odd]} weights of shape {odd[0]}x{odd[1]}, this "
            f"base has {found[odd]} in the same layers; name the base that it was trained on with --base"
        )
    return layers


def _updates_on(modules: Mapping[str, ShapedLayer], file: OwnFile, method: Method) -> dict[str, LowRankUpdate]:
    """Return each layer's update with the widths, and where they are there the weights, of its base.

    Raises:
        LopsidedError: if its tensors do not fit it.
    """
    return {
        name: _update(file, method, name, file.layers[name], layer.kind.widths(layer.base), _weight_of(layer))
        for name, layer in modules.items()
    }


def _weight_of(layer: ShapedLayer) -> np.ndarray | None:
    """Return W0 as (d_out, d_in); None where it has no numbers."""
    weight = layer.base.weight
    assert isinstance(weight, Tensor)
    return None if weight.is_meta else layer.kind.matrix(weight.detach()).float().cpu().numpy()


def _is_transposed(file: OwnFile, modules: Mapping[str, ShapedLayer]) -> bool | None:
    """Return whether the linear layers store their weights as (d_in, d_out); None where nobody says."""
    if modules:
        return all_transposed([layer.kind for layer in modules.values()])
    if file.config.kinds is None:
        return None
    words = [file.config.kinds.get(module, LinearKind.word) for module in file.layers]
    return TransposedKind.word in words and LinearKind.word not in words


def all_transposed(kinds: Sequence[LayerKind | None]) -> bool:
    """Return whether some layers of these kinds are linear, and all of those store their weights as (d_in, d_out)."""
    linear = [kind for kind in kinds if isinstance(kind, LinearKind)]
    return bool(linear) and all(isinstance(kind, TransposedKind) for kind in linear)


def _check_known(file: OwnFile) -> None:
    """Raise for trained tensors that an export's configuration would not name, so that PEFT would pass over them."""
    odd = [name for name in sorted(file.others) if ".trainable_tokens" in name or name.endswith(".base_layer.bias")]
    if odd:
        raise LopsidedError(
            f"the adapter holds {odd[0]}, which an export from files does not carry over; expected factors and whole "
            "modules; load it and export it with lopsided.to_lora"
        )
