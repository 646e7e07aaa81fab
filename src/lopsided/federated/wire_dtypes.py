"""The numbers that trained factors have on the wire: float32, or bfloat16 at half the bytes.

A rounded factor is part of the algorithm and not of the transport: clients send B_m rounded, the server averages what
it has received in float64, rounds the average, and keeps that. So its log, its model and its clients' models have the
same bits, and a replay has them again.

bfloat16 keeps 8 bits of each number, so that an entry moves by at most 2⁻⁸ of itself, to the nearest, ties to even. In
a chain the factor of a link starts at zero (where both train, B does, and A at the sketch), so that what is rounded is
one round's ΔW. Without a chain the factor of all rounds so far would be rounded in every round, and a change below 2⁻⁹
of an entry would be lost for good: such methods are refused. Heads stay in float32 for the same reason, and since they
are few bytes next to the factors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.runs.config import TrainConfig

FLOAT32, BFLOAT16 = "float32", "bfloat16"
Numbers = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class WireDtype:
    """How tensors are written as arrays of NumPy, which has no bfloat16 of its own.

    Args:
        array: the dtype of the arrays.
        write: makes an array of a float32 tensor on the CPU.
        read: makes a float32 tensor of an array of that dtype.
    """

    array: np.dtype[Any]
    write: Callable[[Tensor], Numbers]
    read: Callable[[Numbers], Tensor]


def _bits(tensor: Tensor) -> Numbers:
    bits: Numbers = tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
    return bits


def _of_bits(array: Numbers) -> Tensor:
    return torch.from_numpy(array).view(torch.bfloat16).to(torch.float32)


WIRE_DTYPES = {
    FLOAT32: WireDtype(
        array=np.dtype(np.float32),
        write=lambda tensor: np.ascontiguousarray(tensor.numpy()),
        read=lambda array: torch.from_numpy(array),
    ),
    BFLOAT16: WireDtype(array=np.dtype(np.int16), write=_bits, read=_of_bits),
}


def as_received(tensors: Mapping[str, Tensor], heads: Collection[str], dtype: str) -> dict[str, Tensor]:
    """Return tensors as the other side reads them: factors rounded, heads as they are.

    Args:
        tensors: float32 on the CPU.
        heads: the names of those that are heads.
        dtype: of factors on the wire.

    Example:
        >>> as_received({"B": torch.tensor([1 + 2**-9]), "head": torch.tensor([1 + 2**-9])}, ["head"], "bfloat16")
        {'B': tensor([1.]), 'head': tensor([1.0020])}
    """
    wire = WIRE_DTYPES[dtype]
    return {name: tensor if name in heads else wire.read(wire.write(tensor)) for name, tensor in tensors.items()}


def read_array(name: str, array: Numbers, dtype: str) -> Tensor:
    """Return an array of a message as a float32 tensor.

    Args:
        name: of the tensor, for an error.
        dtype: that it should have on the wire.

    Raises:
        LopsidedError: for an array of another dtype.
    """
    wire = WIRE_DTYPES[dtype]
    if array.dtype != wire.array:
        raise LopsidedError(f"{name!r:.100} is an array of {array.dtype}, expected {wire.array} for {dtype}")
    # A copy: what comes over the wire is read-only.
    return wire.read(array.copy())


def check_wire_dtype(run: TrainConfig, dtype: str) -> None:
    """Raise for a method whose factors would lose small changes to rounding.

    Raises:
        LopsidedError: for bfloat16 with a method without a chain.
    """
    if dtype != FLOAT32 and run.resolve_method().chain is None:
        raise LopsidedError(
            f"wire_dtype {dtype} rounds what method {run.method!r} keeps over all rounds, and small changes would be "
            f"lost; expected a method with a chain, whose factor begins again every round; take one, or {FLOAT32}"
        )
