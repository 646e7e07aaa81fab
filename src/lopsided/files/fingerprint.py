"""Fingerprints of a base model's weights: enough to recognize another base, in 35 characters per layer.

A fingerprint is one line, "768x768 F32 <base64>": shape, dtype, and 16 bytes. The first 8 are a hash of the bits of
64 sampled entries, to compare weights of the same dtype. The other 8 are the first 4 of those entries, rounded to
bfloat16, to compare weights that were cast to another floating dtype. "768x768 -" stands for a weight that could not
be read: on the meta device, sharded, or quantized in a format of its own.
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

SAMPLED, ROUNDED, HASHED = 64, 4, 8
# safetensors' names. Integers are a quantizer's storage, and compare with no other dtype; so would 8-bit floats, which
# are left out.
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
# Tolerances for two roundings to bfloat16, or one to bfloat16 and one to float16, whose subnormal step is 6e-8.
RELATIVE, ABSOLUTE = 2.0**-7, 2.0**-24

Verdict = Literal["same", "rounded", "other", "unknown"]


class _Parsed(NamedTuple):
    shape: str
    dtype: str
    hashed: bytes
    rounded: np.ndarray


def fingerprint(weight: Tensor) -> str:
    """Return the fingerprint of one weight."""
    data, shape = weight.detach(), "x".join(map(str, weight.shape))
    if data.device.type == "meta" or type(data.data) is not Tensor or data.dtype not in DTYPES or data.numel() == 0:
        return f"{shape} {UNREAD}"
    entries = data[_positions(tuple(data.shape))].cpu()
    # The bits are hashed, and not the values: -0.0 and NaN have bits of their own.
    hashed = hashlib.sha256(entries.view(torch.uint8).numpy().data).digest()[:HASHED]
    rounded = entries[:ROUNDED].to(torch.bfloat16).view(torch.int16).numpy().astype("<i2").tobytes()
    return f"{shape} {DTYPES[data.dtype]} {base64.b64encode(hashed + rounded).decode().rstrip('=')}"


@functools.lru_cache(maxsize=256)
def _positions(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return the indices that are sampled of every weight of a shape, the same on every machine."""
    flat = generator(SAMPLED, 0, *shape).randint(0, int(np.prod(shape)), size=SAMPLED, dtype=np.int64)
    return tuple(torch.from_numpy(axis) for axis in np.unravel_index(flat, shape))


def compare(saved: str, live: str) -> Verdict:
    """Return what two fingerprints say about their weights.

    "other" is certain for weights of one dtype that differ in a sampled entry, and for floating dtypes that differ
    by more than a cast. "unknown": one of them could not be read, or is quantized.
    """
    if saved == live and is_read(saved):
        return "same"
    ours, theirs = _parse(saved), _parse(live)
    if ours is None or theirs is None:
        return "unknown"
    if ours.dtype in FLOATING and theirs.dtype in FLOATING:
        if ours.dtype == theirs.dtype or ours.shape != theirs.shape:
            return "other"
        limit = RELATIVE * np.maximum(np.abs(ours.rounded), np.abs(theirs.rounded)) + ABSOLUTE
        # Equal infinities have no difference.
        with np.errstate(invalid="ignore"):
            near = (np.abs(ours.rounded - theirs.rounded) <= limit) | (ours.rounded == theirs.rounded)
        near |= np.isnan(ours.rounded) & np.isnan(theirs.rounded)
        return "rounded" if near.all() else "other"
    # Quantized on one side at least. Other numbers prove nothing: a quantizer may round ties differently by device.
    return "unknown"


def is_read(line: str) -> bool:
    """Return whether the fingerprint is of a weight that could be read."""
    return not line.endswith(UNREAD)


def is_floating(line: str) -> bool:
    """Return whether the weight is stored in a floating dtype, and not as a quantizer's integers."""
    return line.split(" ")[1] in FLOATING


def check_line(line: str) -> None:
    """Raise if a fingerprint is no line of this form."""
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
    if len(data) != HASHED + 2 * ROUNDED or dtype not in DTYPES.values():
        raise _unreadable(line)
    # A bfloat16 is the upper half of a float32, so a shift restores its value.
    rounded = (np.frombuffer(data[HASHED:], dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return _Parsed(shape, dtype, data[:HASHED], rounded)


def _unreadable(line: str) -> LopsidedError:
    return LopsidedError(
        f"the base's fingerprint {line!r:.80} can't be read; expected shape, dtype and 22 characters; get "
        "adapter_config.json again, or pass allow_base_mismatch=True"
    )


def check_base(saved: Sequence[str], live: Mapping[str, str], *, hint: str = "allow_base_mismatch=True") -> None:
    """Raise if the base that an adapter is put on is another one than it was saved on.

    Args:
        saved: fingerprints of the targeted layers, in the model's order.
        live: the fingerprints of this model's targeted layers, by module.
        hint: how the caller overrides the check.

    Raises:
        LopsidedError: for another number of layers, another shape, or other content. A LopsidedWarning says which
            layers could not be compared.
    """
    # In any order, since a library may have reordered the layers in between: the same weights are the same base.
    if Counter(saved) == Counter(live.values()) and all(map(is_read, saved)):
        return
    fix = f"load it on the base that it was trained on, or pass {hint}"
    if len(saved) != len(live):
        raise LopsidedError(f"the adapter was saved on {len(saved)} layers, here it has {len(live)}; {fix}")
    verdicts = {name: compare(line, live[name]) for line, name in zip(saved, live)}
    other = [(name, line) for (name, verdict), line in zip(verdicts.items(), saved) if verdict == "other"]
    if other:
        name, line = other[0]
        was, now = line.rpartition(" ")[0], live[name].rpartition(" ")[0]
        raise LopsidedError(
            f"the base model is another one: {len(other)} of {len(live)} layers differ, {name} among them (saved on "
            f"{was}, here {now}{' with other numbers' if was == now else ''}); {fix}"
        )
    unknown = [name for name, verdict in verdicts.items() if verdict == "unknown"]
    if unknown:
        warnings.warn(
            f"{len(unknown)} of {len(live)} base weights, {unknown[0]} among them, are quantized, sharded or not in "
            "memory, now or when the adapter was saved: whether this is the base that it was trained on can't be seen",
            LopsidedWarning,
            stacklevel=3,
        )
