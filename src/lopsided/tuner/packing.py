"""The frozen part of an adapter as tensors of a file, and back.

With the trained factors and the method's parts, these tensors are the adapter: the seed, a checksum per sketch, the
indices of selectors, sketches that nothing could draw again, and the trained factors of the past links, stacked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.finite import check_finite
from lopsided.method import LETTERS, factor_shapes
from lopsided.method.sketch import Selector, Stored, checksum
from lopsided.tuner.adapter import CPU, Adapter, LinkSketch, no_numbers, select
from lopsided.tuner.forward.compute import Selected

# The tensors that a saved adapter holds next to its trained factors. `past_` ones grow with the chain.
EXTRAS = ("seed", "checksum", "indices", "sketch", "past_A", "past_B", "past_C")
CHECKSUM_TOLERANCE = 1e-5
# Of a sketch's checksum, and of its indices, until the saved ones arrive.
ABSENT = -1


def label(what: str) -> str:
    """Return a tensor's name in a file, behind its module's."""
    return f"lopsided_{what}.weight" if what in LETTERS else f"lopsided_state.{what}"


# -- out -------------------------------------------------------------------------------------------------------


def pack(adapter: Adapter) -> dict[str, Tensor]:
    """Return the tensors that, with the trained factors and the method's parts, are this adapter.

    An adapter that waits for a chain's past, or for a sketch that cannot be drawn, gives placeholders without content.
    """
    if adapter.pending:
        return _placeholders(adapter)
    tensors = {
        "seed": torch.tensor([adapter.seed], dtype=torch.int64, device="cpu"),
        "checksum": torch.tensor([sketch.checksum for sketch in adapter.sketches], dtype=torch.float64, device="cpu"),
    }
    factors = [sketch.factor for sketch in adapter.sketches]
    if isinstance(factors[0], Selected):
        tensors["indices"] = torch.stack([f.indices.to(CPU, torch.int32) for f in factors])  # type: ignore[union-attr]
    elif _stores_sketch(adapter):
        padded = torch.zeros(len(factors), adapter.r, _stored_width(adapter), device="cpu")
        for row, factor in zip(padded, factors):
            assert isinstance(factor, Tensor)
            row[:, : factor.shape[1]] = factor
        tensors["sketch"] = padded
    for letter in adapter.past[0] if adapter.past else ():
        tensors[f"past_{letter}"] = torch.stack([trained[letter] for trained in adapter.past])
    return tensors


def _placeholders(adapter: Adapter) -> dict[str, Tensor]:
    """Return what stands for saved tensors that have yet to arrive: their shapes, in no memory."""
    links, factors = adapter.saved_link + 1, adapter.shapes()
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "seed": ((1,), torch.int64),
        "checksum": ((links,), torch.float64),
    }
    if isinstance(adapter.method.sketch, Selector):
        shapes["indices"] = (links, adapter.r), torch.int32
    elif _stores_sketch(adapter):
        shapes["sketch"] = (links, adapter.r, _stored_width(adapter)), torch.float32
    if past := adapter.past_links(adapter.saved_link):
        shapes |= {f"past_{k}": ((past, *factors[k]), torch.float32) for k in factors}
    return {
        what: torch.full((), ABSENT, dtype=dtype, device="cpu").expand(shape) for what, (shape, dtype) in shapes.items()
    }


def _stores_sketch(adapter: Adapter) -> bool:
    """Return whether the sketch itself is in the file, since nothing could draw it again."""
    sketch = adapter.method.sketch
    return adapter.method.adapter_side.keeps_sketch and sketch is not None and sketch.stored


def _never_drawn(adapter: Adapter) -> bool:
    """Return whether nothing but saved tensors gives the sketch: its class is unknown, or it was drawn from data."""
    return isinstance(adapter.method.sketch, Stored) or adapter.method.reads_inputs


def _stored_width(adapter: Adapter) -> int:
    """Return the width of a stored sketch; where links have different ones, the widest gives the shape."""
    return adapter.method.adapter_side.stored_width(adapter.d_out, adapter.d_in)


# -- in --------------------------------------------------------------------------------------------------------


def check_complete(adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    """Raise if among a saved adapter's tensors one is missing.

    Raises:
        LopsidedError: naming it.
    """
    required = {"seed", "checksum"}
    if isinstance(adapter.method.sketch, Selector):
        required.add("indices")
    if _never_drawn(adapter) and adapter.method.adapter_side.keeps_sketch and "indices" not in tensors:
        required.add("sketch")
    if "checksum" in tensors and adapter.past_links(tensors["checksum"].numel() - 1) > 0:
        required |= {f"past_{letter}" for letter in adapter.letters}
    if missing := sorted(required - tensors.keys()):
        raise LopsidedError(
            f"{adapter.module}: of the saved adapter's tensors {', '.join(missing)} did not arrive, only "
            f"{', '.join(sorted(tensors))}; expected all; load it with peft.PeftModel.from_pretrained"
        )


def unpack(adapter: Adapter, tensors: Mapping[str, Tensor], weight: np.ndarray | None) -> Adapter:
    """Return the adapter that `pack` described; what the tensors do not hold is drawn again.

    Args:
        adapter: on the same layer, of the same method. It does not change.
        weight: W0 as (d_out, d_in), for sketches that read it.

    Raises:
        LopsidedError: if the tensors contradict each other or the layer, hold NaN or Inf, or a redrawn sketch's
            checksum differs.
    """
    _check_tensors(adapter, tensors)
    links = tensors["checksum"].numel()
    letters = [what.removeprefix("past_") for what in tensors if what.startswith("past_")]
    seed = int(tensors["seed"][0])
    # What this one has drawn from the same seed need not be drawn again; for the link in training it has to be whole.
    known: dict[int, LinkSketch] = dict(enumerate(adapter.sketches)) if seed == adapter.seed else {}
    if links - 1 in known and not known[links - 1].whole:
        del known[links - 1]
    loaded = dataclasses.replace(adapter, seed=seed, past=[], sketches=[], arrivals={}, expected=None)
    for link in range(links):
        loaded.begin(_read_sketch(loaded, link, tensors, known, weight))
    loaded.past = [
        {letter: tensors[f"past_{letter}"][link].to(CPU, torch.float32, copy=True) for letter in letters}
        for link in range(adapter.past_links(links - 1))
    ]
    return loaded


def _check_tensors(adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    module, r, links = adapter.module, adapter.r, tensors["checksum"].numel()
    past = adapter.past_links(links - 1)
    factors = factor_shapes(adapter.d_out, adapter.d_in, r)
    shapes: dict[str, tuple[int, ...]] = {"seed": (1,), "checksum": (links,)}
    shapes |= {"indices": (links, r), "sketch": (links, r, _stored_width(adapter))}
    shapes |= factors | {f"past_{letter}": (past, *shape) for letter, shape in factors.items()}
    for what, tensor in tensors.items():
        if what.startswith("past_") and len(tensor) != past:
            raise LopsidedError(
                f"{module}: {links} checksums but {len(tensor)} past links in {label(what)}; expected {past}; the "
                "file is damaged"
            )
        whole = what in ("seed", "indices")
        if tuple(tensor.shape) != shapes[what] or tensor.is_floating_point() == whole or tensor.is_complex():
            raise LopsidedError(
                f"{module}: {label(what)} is {list(tensor.shape)} of {tensor.dtype}, expected "
                f"{list(shapes[what])} of {'whole' if whole else 'floating'} numbers; load the adapter on the "
                "model that it was trained on, with the same r, and average states within one link only"
            )
        if not whole:
            check_finite(f"{module}: {label(what)}", tensor, fix="go back to an earlier save")
    if links == 0 or (adapter.links is not None and links > adapter.links):
        raise LopsidedError(
            f"{module}: the saved adapter stands at link {links - 1}, expected one of a chain of "
            f"{adapter.links} links; load it with the configuration that it was saved with"
        )


def _read_sketch(
    adapter: Adapter,
    link: int,
    tensors: Mapping[str, Tensor],
    known: Mapping[int, LinkSketch],
    weight: np.ndarray | None,
) -> LinkSketch:
    """Return one link's sketch from the saved tensors, or drawn again and held to the saved checksum."""
    width = adapter.side_of(link).width(adapter.d_out, adapter.d_in)
    expected = float(tensors["checksum"][link])
    if "indices" in tensors:
        indices = tensors["indices"][link].to(CPU, torch.int64).numpy()
        if np.unique(indices).size != adapter.r or indices.min() < 0 or indices.max() >= width:
            raise LopsidedError(
                f"{adapter.module}: link {link} selects {indices.tolist()!r:.80}, expected {adapter.r} different "
                f"columns below {width}; the file is damaged; get it again"
            )
        sketch = select(indices, width)
    elif "sketch" in tensors:
        S = tensors["sketch"][link][:, :width].to(CPU, torch.float32).contiguous()
        sketch = LinkSketch(S, checksum(S.numpy()))
    elif _never_drawn(adapter):
        if adapter.method.reads_inputs and adapter.method.adapter_side.keeps_sketch:
            raise LopsidedError(
                f"{adapter.module}: the saved adapter lacks its sketch, which was drawn from data; expected it in the "
                "file, which is damaged; get it again"
            )
        # Both factors were trained, so A itself is in the file, and where it started no longer matters.
        return no_numbers((adapter.r, width), expected)
    else:
        sketch = known[link] if link in known else adapter.draw(link, weight)
    if abs(sketch.checksum - expected) > CHECKSUM_TOLERANCE * max(1.0, abs(expected)):
        raise LopsidedError(
            f"{adapter.module}: the sketch of link {link} has checksum {sketch.checksum:.6g}, the saved adapter "
            f"says {expected:.6g}; load it with the method it was trained with, and average states within one "
            "link only"
        )
    return sketch
