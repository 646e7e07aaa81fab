"""What server and clients write into Flower's messages, and how many bytes that is on the wire.

Tensors are arrays in NumPy's own format, which holds numbers and no objects: nothing is pickled. Factors and heads are
in records of their own, so that their bytes are counted apart: heads are float32, factors as `wire_dtypes` says.
Everything else is JSON, and a few numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.federated.wire_dtypes import FLOAT32, WIRE_DTYPES, read_array

# Names of the records of a message.
FACTORS, HEADS, TELLS, FIGURES = "factors", "heads", "tells", "figures"
# What bytes are counted under, each way.
KINDS_OF_BYTES = (FACTORS, HEADS, "rest")


def tensor_records(
    tensors: Mapping[str, Tensor], heads: Iterable[str], prefix: str = "", dtype: str = FLOAT32
) -> dict[str, ArrayRecord]:
    """Return tensors as the records of a message: factors, and heads.

    Args:
        tensors: float32 on the CPU.
        heads: the names of those that are heads.
        prefix: of the records' names, where a message has the tensors of several rounds.
        dtype: of factors on the wire.
    """
    of_heads = set(heads)
    parts: dict[str, dict[str, Array]] = {FACTORS: {}, HEADS: {}}
    for name, tensor in tensors.items():
        kind = HEADS if name in of_heads else FACTORS
        parts[kind][name] = Array(WIRE_DTYPES[_dtype_of(kind, dtype)].write(tensor))
    return {prefix + kind: ArrayRecord(arrays) for kind, arrays in parts.items()}


def tensors_of(content: RecordDict, prefix: str = "", dtype: str = FLOAT32) -> dict[str, Tensor]:
    """Return the tensors of a message, float32.

    Args:
        prefix, dtype: as for `tensor_records`.

    Raises:
        LopsidedError: for arrays that are missing, of another dtype, or of another form than numbers.
    """
    tensors: dict[str, Tensor] = {}
    for kind in (FACTORS, HEADS):
        record = content.array_records.get(prefix + kind)
        if record is None:
            raise LopsidedError(f"the message has no record {prefix + kind}; expected one of factors and one of heads")
        for name, array in record.items():
            try:
                numbers = array.numpy()
            except (ValueError, TypeError) as error:
                raise LopsidedError(f"{name!r:.100} is no array of numbers: {error}") from error
            tensors[name] = read_array(name, numbers, _dtype_of(kind, dtype))
    return tensors


def _dtype_of(kind: str, dtype: str) -> str:
    return dtype if kind == FACTORS else FLOAT32


def told(content: RecordDict) -> dict[str, str | int | float]:
    """Return what a message tells besides tensors: its configuration and figures, by name."""
    records: tuple[Mapping[str, object], ...] = (
        content.config_records.get(TELLS, ConfigRecord()),
        content.metric_records.get(FIGURES, MetricRecord()),
    )
    return {name: value for record in records for name, value in record.items() if isinstance(value, str | int | float)}


def number_told(figures: dict[str, str | int | float], name: str) -> float:
    """Return a number that a client tells.

    Raises:
        LopsidedError: if it tells none, or one that is not finite.
    """
    value = figures.get(name)
    if isinstance(value, str) or value is None or not math.isfinite(value):
        raise LopsidedError(f"its answer has no number {name!r}: {value!r:.40}")
    return value


def printable(text: object, most: int = 80) -> str:
    """Return a client's text as it can be printed: a terminal would obey control characters."""
    shown = (character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text))
    return "".join(shown)[:most]


def wire_bytes(message: Message) -> dict[str, int]:
    """Count the bytes of a message as Flower sends it, by what they are.

    A message is sent as a tree of objects: the message, its records, their arrays, and the chunks of these. All of them
    are counted as they are serialized; what HTTP/2 and TLS add is not. Masked updates count as factors, and with them
    the head, which nobody can tell apart.
    """
    total = _tree_bytes(message)
    counts = dict.fromkeys(KINDS_OF_BYTES, 0)
    if message.has_content():
        for name, record in message.content.array_records.items():
            counts[HEADS if name.endswith(HEADS) else FACTORS] += _tree_bytes(record)
        masked = message.content.config_records.get(RECORD_KEY_CONFIGS, ConfigRecord()).get(Key.MASKED_PARAMETERS)
        if isinstance(masked, list):
            counts[FACTORS] += sum(len(each) for each in masked if isinstance(each, bytes))
    counts["rest"] = total - counts[FACTORS] - counts[HEADS]
    return counts


def _tree_bytes(part: Message | ArrayRecord) -> int:
    return sum(len(each.deflate()) for each in get_all_nested_objects(part).values())
