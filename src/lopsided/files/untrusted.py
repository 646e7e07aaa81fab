"""Reading of files that somebody else wrote: every size, type and path is checked before it is used."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from safetensors import SafetensorError, safe_open
from torch import nn

from lopsided.errors import LopsidedError, first_line
from lopsided.finite import check_finite

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Far above any real configuration, manifest or index, and far below what would fill a machine.
MAX_JSON_BYTES = 2**25
PICKLES = ("adapter_model.bin", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        LopsidedError: if it is not one, or too large to be one of ours.
    """
    if not path.is_file():
        raise LopsidedError(f"{path.parent} holds no {path.name}; expected a saved adapter or model; check the path")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise LopsidedError(f"{path} has {path.stat().st_size} bytes, expected at most {MAX_JSON_BYTES}; get it again")
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in bytes; `what` names them in errors."""
    try:
        value = json.loads(text)
    # ValueError: damaged JSON, damaged UTF-8, a number of thousands of digits. RecursionError: brackets without end.
    except (ValueError, RecursionError) as error:
        raise LopsidedError(f"{what} is not JSON ({first_line(error)}); the file is damaged; get it again") from error
    if not isinstance(value, dict):
        raise LopsidedError(f"{what} is a JSON {type(value).__name__}; expected an object; get the file again")
    return value


# -- types -------------------------------------------------------------------------------------------------------


def check_fields(owner: type, values: Mapping[str, Any], what: str) -> None:
    """Check values against the annotations of a dataclass, before it is built from them.

    Whole numbers must fit into 64 bits. Keys that the class does not have are not looked at.

    Args:
        owner: the dataclass.
        values: by field.
        what: names them in errors.

    Raises:
        LopsidedError: naming the first value that does not fit.

    Example:
        >>> from lopsided.method.method import Chain
        >>> check_fields(Chain, {"links": "4"}, "chain")
        Traceback (most recent call last):
        lopsided.errors.LopsidedError: chain: links must be int | None, got '4'; correct the configuration
    """
    hints = _hints(owner)
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            shown = repr(value) if len(repr(value)) < 80 else repr(value)[:80] + "…"
            expected = str(owner.__annotations__.get(name, hints[name]))
            raise LopsidedError(f"{what}: {name} must be {expected}, got {shown}; correct the configuration")


# Resolving annotations evaluates them, which is slow for a class of forty fields.
@functools.cache
def _hints(owner: type) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value from JSON has the type that an annotation says."""
    if isinstance(hint, dataclasses.InitVar):
        hint = hint.type
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (list, tuple):
        # PEFT takes sets and ranges for lists.
        is_sequence = isinstance(value, (list, tuple, set, frozenset, range))
        return is_sequence and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items()
        )
    return _is_instance(value, hint)


def _is_instance(value: Any, hint: type) -> bool:
    if hint in (int, float):
        # A bool is an int to Python; a larger integer would overflow in torch, long after this check.
        number = int if hint is int else (int, float)
        is_too_large = isinstance(value, int) and abs(value) >= 2**63
        return isinstance(value, number) and not isinstance(value, bool) and not is_too_large
    return isinstance(value, hint)


def check_plain(parts: Mapping[str, Any], what: str) -> None:
    """Raise unless parts are names and finite numbers, or lists of them: nothing nested."""
    for name, value in parts.items():
        items = value if isinstance(value, list) else [value]
        finite = all(math.isfinite(item) for item in items if isinstance(item, float))
        if not finite or not all(_fits(item, int | float | bool | str | None) for item in items):
            raise LopsidedError(
                f"{what}: {name} must be a name or a number, got {value!r:.80}; correct the configuration"
            )


# -- names and paths ---------------------------------------------------------------------------------------------


def check_adapter_name(name: str) -> None:
    """Raise for an adapter's name that cannot be a folder's name and a part of parameters' names.

    Raises:
        LopsidedError: for an empty name, one with dots or separators, or one that torch's containers use.
    """
    if not isinstance(name, str) or not name or set(name) & set("./\\\0") or name in dir(nn.ParameterDict):
        raise LopsidedError(
            f"adapter name {name!r} can't name a folder and a parameter; expected letters, digits, '-' and '_', and "
            "no word that torch keeps for itself; choose another name"
        )


def weights_in(folder: Path, name: str = ADAPTER_WEIGHTS) -> Path:
    """Return the path of the safetensors file of that name in a folder.

    Raises:
        LopsidedError: if it is not there. A pickle in its place is never opened.
    """
    path = folder / name
    if path.is_file():
        return path
    pickled = [pickle for pickle in PICKLES if (folder / pickle).exists()]
    if pickled:
        raise LopsidedError(
            f"{folder} holds {pickled[0]}, a pickle, which can run code when it is opened; expected {name}; save it "
            "again with safe_serialization=True"
        )
    raise LopsidedError(
        f"{folder} holds no {name}; expected the tensors next to their configuration; get the file again"
    )


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file for reading.

    Raises:
        LopsidedError: for a header that is damaged or does not fit the file's size, and for a file that is cut off.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("format") != "pt":
                raise LopsidedError(f"{path}: the header does not say format 'pt'; the file is damaged; get it again")
            yield file
    except SafetensorError as error:
        raise LopsidedError(f"{path}: {first_line(error)}; the file is damaged or cut off; get it again") from error


def check_finite_file(path: Path) -> tuple[int, int]:
    """Return how many tensors a safetensors file holds, and how many numbers.

    Raises:
        LopsidedError: as `open_tensors` does, and for NaN and Inf.
    """
    numbers = 0
    with open_tensors(path) as file:
        names = list(file.keys())
        for name in names:
            tensor = file.get_tensor(name)
            numbers += tensor.numel()
            check_finite(f"{path}: {name}", tensor, fix="get the file again")
    return len(names), numbers


def shards_of(folder: Path) -> dict[str, list[str]]:
    """Return the files of a whole model's weights, each with the tensors that it must hold ([] without an index).

    Raises:
        LopsidedError: if there is none, or the index names a file that is missing or outside the folder.
    """
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return {weights_in(folder, "model.safetensors").name: []}
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not _fits(weight_map, dict[str, str]):
        raise LopsidedError(f"{index}: weight_map must name a file for each tensor; the file is damaged; get it again")
    shards: dict[str, list[str]] = {}
    for tensor, name in weight_map.items():
        shards.setdefault(name, []).append(tensor)
    for name in shards:
        # Separators of every system are refused: the index may have been written for another one.
        if name in ("", ".", "..") or set(name) & set("/\\\0:") or not name.endswith(".safetensors"):
            raise LopsidedError(
                f"{index} names the file {name!r}, which leaves the folder or is no safetensors file; expected a "
                ".safetensors file in the same folder; do not use this folder"
            )
        if not (folder / name).is_file():
            raise LopsidedError(f"{folder} lacks {name}, one of the {len(shards)} files of its index; get it again")
    return shards


def check_shards(folder: Path) -> list[Path]:
    """Return the files of a whole model's weights, after opening each once and comparing it with the index.

    Raises:
        LopsidedError: as `shards_of` and `open_tensors` do, and for tensors that the index gives to another file.
    """
    for name, promised in shards_of(folder).items():
        with open_tensors(folder / name) as file:
            names = set(file.keys())
        if promised and set(promised) != names:
            odd = min(set(promised) ^ names)
            raise LopsidedError(f"{folder / name} and the index disagree about tensor {odd!r}; get the files again")
    return [folder / name for name in shards_of(folder)]
