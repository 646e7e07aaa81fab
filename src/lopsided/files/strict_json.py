"""JSON that every parser reads: a number that is not finite becomes null, and the record says where it was.

A figure that could not be computed is None, and the object that holds it has `why`: the reason, by the figure's name.
If a number that is not finite reaches a file all the same, it is written as null, and the record's `nulls` hold its
path and what it was. Files of version 0.1.0 hold `NaN` and `Infinity`; `loads` reads them as if they had been written
in this form.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lopsided.errors import LopsidedError

WHY, NULLS = "why", "nulls"


def strict(value: Any) -> Any:
    """Return a record with None in place of NaN and infinities; its `nulls` say where and what each was.

    Args:
        value: a mapping, a list of mappings (each keeps its own `nulls`), or anything else that is finite.

    Raises:
        LopsidedError: for a number that is not finite and has no mapping around it that could say so.

    Example:
        >>> strict({"loss": [0.5, float("nan")]})
        {'loss': [0.5, None], 'nulls': {'loss.1': 'NaN'}}
        >>> strict({"loss": 0.5})
        {'loss': 0.5}
    """
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    nulls: dict[str, str] = {}
    plain = _without(value, (), nulls)
    if not nulls:
        return plain
    if not isinstance(plain, dict):
        raise LopsidedError(f"expected a finite number to write as JSON, got {value}; put it into an object")
    return {**plain, NULLS: {**plain.get(NULLS, {}), **nulls}}


def dumps(value: Any, *, indent: int | None = 2) -> str:
    """Return a record as strict JSON; see `strict`."""
    return json.dumps(strict(value), indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Return a record from JSON, including that of earlier versions with `NaN` and `Infinity` in it.

    Raises:
        json.JSONDecodeError: if it is no JSON.

    Example:
        >>> loads('{"se": NaN}')
        {'se': None, 'nulls': {'se': 'NaN'}}
    """
    return strict(json.loads(text))


def reasons(value: Any, path: tuple[str, ...] = ()) -> dict[str, str]:
    """Return why figures of a record are missing, by their places in it.

    Example:
        >>> reasons({"test": {"se": None, "why": {"se": "one row"}}, "nulls": {"loss.1": "NaN"}})
        {'test.se': 'one row', 'loss.1': 'NaN'}
    """
    if isinstance(value, list | tuple):
        value = {str(number): inner for number, inner in enumerate(value) if isinstance(inner, Mapping | list | tuple)}
    if not isinstance(value, Mapping):
        return {}
    by_place: dict[str, str] = {}
    for key, inner in value.items():
        if key in (WHY, NULLS) and isinstance(inner, Mapping):
            by_place |= {".".join((*path, str(name))): str(reason) for name, reason in inner.items()}
        else:
            by_place |= reasons(inner, (*path, str(key)))
    return by_place


def _without(value: Any, path: tuple[str, ...], nulls: dict[str, str]) -> Any:
    """Return the value without what is not finite, and note each such number in `nulls`."""
    if isinstance(value, Mapping):
        return {key: _without(inner, (*path, str(key)), nulls) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without(inner, (*path, str(number)), nulls) for number, inner in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nulls[".".join(path)] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return None
    return value
