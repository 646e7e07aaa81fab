"""A method made from another one and a table of changed parts, as plain data that a study's file can hold.

Example, in TOML:

    [methods.cla-neither-kept]
    of = "c3la"
    chain = {every = 96, merge = false, redraw = false, prune = 0.0, freeze_rate = true}
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from lopsided.errors import LopsidedError, unknown
from lopsided.method.chain import Chain
from lopsided.method.method import Method, method_named
from lopsided.method.sketch import SKETCHES, Sketch, sketch_named

# A method's other parts are tables of their own.
PLAIN = ("train", "lr_ratio", "p", "lr", "source")
TABLES = ("chain", "sketch")


def varied(base: str | Method, *, name: str, **changes: Any) -> Method:
    """Return a copy of a method with some parts changed; the copy is not registered.

    Args:
        base: the other method, or its name.
        name: the new method's.
        changes: by part. `train`, `lr_ratio`, `p`, `lr` and `source` are as in `Method`; `chain` is a table of fields
            of `Chain`, where `every` takes the place of `links` and the other way round; `sketch` is a table of
            fields of a sketch, with the name of its class as "kind" where that changes, too.

    Raises:
        LopsidedError: for an unknown part, field, sketch or side, a value of another type, or parts that contradict
            each other.

    Example:
        >>> import lopsided
        >>> method = varied("c3la", name="kept", chain={"every": 96, "merge": False}, sketch={"order": "shuffled"})
        >>> method.chain.every, method.chain.jumps, method.sketch
        (96, True, Window(order='shuffled'))
    """
    other = method_named(base) if isinstance(base, str) else base
    what = f"method {name!r}"
    for part in changes:
        if part not in (*PLAIN, *TABLES):
            raise LopsidedError(f"{what}: {unknown('part', part, (*PLAIN, *TABLES))}")
    parts: dict[str, Any] = {part: value for part, value in changes.items() if part in PLAIN}
    _check_types(Method, parts, what)
    for part, combined in (("chain", _chain), ("sketch", _sketch)):
        if part not in changes:
            continue
        table = changes[part]
        if not isinstance(table, Mapping):
            raise LopsidedError(f"{what}: {part} must be a table of its fields, got {table!r:.60}")
        parts[part] = combined(getattr(other, part), dict(table), f"{what}, {part}")
    parts.setdefault("source", f"{other.source}, with another {', '.join(changes)}" if changes else other.source)
    return dataclasses.replace(other, name=name, compared=False, **parts)


def _chain(old: Chain | None, table: dict[str, Any], what: str) -> Chain:
    _check_types(Chain, table, what)
    if old is None:
        return Chain(**table)
    # A chain has one of the two numbers.
    if table.keys() & {"links", "every"}:
        table = {"links": None, "every": None, **table}
    return dataclasses.replace(old, **table)


def _sketch(old: Sketch | None, table: dict[str, Any], what: str) -> Sketch:
    kind = table.pop("kind", None if old is None else type(old).__name__)
    if not isinstance(kind, str):
        raise LopsidedError(f"{what}: kind must be the name of a sketch's class, got {kind!r:.60}")
    # By its name, so that an unknown one is refused with the nearest.
    new = sketch_named(kind)
    if SKETCHES[kind].__module__.startswith("lopsided."):
        # A user's own class may have annotations that only its own module can read.
        _check_types(type(new), table, what)
    return dataclasses.replace(old if type(old) is type(new) else new, **table)


def _check_types(owner: type, table: Mapping[str, Any], what: str) -> None:
    """Raise for a key that is no field of the class, or a value that is not of the field's type."""
    hints = typing.get_type_hints(owner)
    fields = [field.name for field in dataclasses.fields(owner) if field.init]
    for key, value in table.items():
        if key not in fields:
            raise LopsidedError(f"{what}: {unknown('field', key, fields)}")
        # The types of a union, or the words of a Literal.
        allowed = typing.get_args(hints[key]) or (hints[key],)
        is_word = any(isinstance(word, str) and word == value for word in allowed)
        # True is an int to Python, and no number to anybody else.
        is_number = type(value) is int and float in allowed
        if not (is_word or is_number or type(value) in allowed):
            expected = " or ".join(getattr(kind, "__name__", str(kind)) for kind in allowed)
            raise LopsidedError(f"{what}: {key} must be {expected}, got {value!r:.60}")
