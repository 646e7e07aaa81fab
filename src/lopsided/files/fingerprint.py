"""What a base model's weights look like: enough of them to tell another base, in 35 characters a layer.

A fingerprint is one line, "768x768 F32 <base64>": shape, dtype, and 16 bytes. The first 8 are a hash of the bits of
64 sampled entries, for weights of the same dtype. The other 8 are the first 4 of those entries, rounded to bfloat16,
for weights that were cast to another floating dtype. "768x768 -" stands for a weight that could not be read:
on the meta device, sharded, or quantized in a form of its own.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lopsided.errors import LopsidedError, LopsidedWarning
from lopsided.method.sketch import generator

SAMPLED, KEPT, HASHED = 64, 4, 8
# safetensors' names. Integers and 8-bit floats are a quantizer's storage, which no other dtype compares with.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int8: "I8",
}
FLOATING = ("F64", "F32", "F16", "BF16")
UNREAD = "-"
# Two roundings to bfloat16, or one to bfloat16 and one to float16, whose subnormal step is 6e-8.
RELATIVE, ABSOLUTE = 2.0**-7, 2.0**-24

Verdict = Literal["same", "rounded", "other", "unknown"]


class _Parsed(NamedTuple):
    shape: str
    dtype: str
    hashed: bytes
    kept: np.ndarray


def fingerprint(weight: Tensor) -> str:
    """The fingerprint of one weight."""
    data, shape = weight.detach(), "x".join(map(str, weight.shape))
    if data.device.type == "meta" or type(data.data) is not Tensor or data.dtype not in DTYPES or data.numel() == 0:
        return f"{shape} {UNREAD}"
    entries = data[_positions(tuple(data.shape))].cpu()
    hashed = hashlib.sha256(entries.view(torch.uint8).numpy().data).digest()[:HASHED]
    kept = entries[:KEPT].to(torch.bfloat16).view(torch.int16).numpy().astype("<i2").tobytes()
    return f"{shape} {DTYPES[data.dtype]} {base64.b64encode(hashed + kept).decode().rstrip('=')}"


@functools.lru_cache(maxsize=256)
def _positions(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The same entries of every weight of a shape, on every machine."""
    flat = generator(SAMPLED, 0, *shape).randint(0, int(np.prod(shape)), size=SAMPLED, dtype=np.int64)
    return tuple(torch.from_numpy(axis) for axis in np.unravel_index(flat, shape))


def compare(saved: str, found: str) -> Verdict:
    """What two fingerprints say about their weights.

    "other" is certain for weights of one dtype that differ in a sampled entry, and for floating dtypes that differ
    by more than a cast. "unknown": one of them could not be read, or is quantized.
    """
    if saved == found and is_read(saved):
        return "same"
    ours, theirs = _parse(saved), _parse(found)
    if ours is None or theirs is None:
        return "unknown"
    if ours.dtype in FLOATING and theirs.dtype in FLOATING:
        if ours.dtype == theirs.dtype or ours.shape != theirs.shape:
            return "other"
        limit = RELATIVE * np.maximum(np.abs(ours.kept), np.abs(theirs.kept)) + ABSOLUTE
        # Equal infinities have no difference.
        with np.errstate(invalid="ignore"):
            near = (np.abs(ours.kept - theirs.kept) <= limit) | (ours.kept == theirs.kept)
        near |= np.isnan(ours.kept) & np.isnan(theirs.kept)
        return "rounded" if near.all() else "other"
    # The same quantizer may round a tie another way on another device.
    return "unknown"


def is_read(line: str) -> bool:
    return not line.endswith(UNREAD)


def is_floating(line: str) -> bool:
    return line.split(" ")[1] in FLOATING


def check_line(line: str) -> None:
    """Raise if a fingerprint can't be read."""
    _parse(line)


def _parse(line: str) -> _Parsed | None:
    shape, _, rest = line.partition(" ")
    dtype, _, code = rest.partition(" ")
    if dtype == UNREAD:
        return None
    try:
        data = base64.b64decode(code + "=" * (-len(code) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _unreadable(line) from error
    if len(data) != HASHED + 2 * KEPT or dtype not in DTYPES.values():
        raise _unreadable(line)
    # A bfloat16 is the upper half of a float32.
    kept = (np.frombuffer(data[HASHED:], dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return _Parsed(shape, dtype, data[:HASHED], kept)


def _unreadable(line: str) -> LopsidedError:
    return LopsidedError(
        f"the base's fingerprint {line!r:.80} can't be read; expected shape, dtype and 22 characters; get "
        "adapter_config.json again, or pass allow_base_mismatch=True"
    )


def check_base(saved: Sequence[str], found: Mapping[str, str], *, hint: str = "allow_base_mismatch=True") -> None:
    """Compare the base that an adapter was saved on with the one that it is put on.

    Args:
        saved: fingerprints of the targeted layers, in the model's order.
        found: those of this model, by module.
        hint: how the caller overrides the check.

    Raises:
        LopsidedError: for another number of layers, another shape, other content. A LopsidedWarning says where
            nothing could be compared.
    """
    # A library may have reordered the layers in between: the same weights are the same base.
    if Counter(saved) == Counter(found.values()) and all(map(is_read, saved)):
        return
    fix = f"load it on the base that it was trained on, or pass {hint}"
    if len(saved) != len(found):
        raise LopsidedError(f"the adapter was saved on {len(saved)} layers, here it has {len(found)}; {fix}")
    verdicts = {name: compare(line, found[name]) for line, name in zip(saved, found)}
    other = [(name, line) for (name, verdict), line in zip(verdicts.items(), saved) if verdict == "other"]
    if other:
        name, line = other[0]
        was, now = line.rpartition(" ")[0], found[name].rpartition(" ")[0]
        raise LopsidedError(
            f"the base model is another one: {len(other)} of {len(found)} layers differ, {name} among them (saved on "
            f"{was}, here {now}{' with other numbers' if was == now else ''}); {fix}"
        )
    unknown = [name for name, verdict in verdicts.items() if verdict == "unknown"]
    if unknown:
        warnings.warn(
            f"{len(unknown)} of {len(found)} base weights, {unknown[0]} among them, are quantized, sharded or not in "
            "memory, now or when the adapter was saved: whether this is the base that it was trained on can't be seen",
            LopsidedWarning,
            stacklevel=3,
        )
