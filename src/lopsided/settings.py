"""The checks and the documentation of configuration types, from what their fields declare."""

from __future__ import annotations

import functools
import inspect
import typing
from pathlib import Path
from typing import Any, TypeVar

from lopsided.errors import LopsidedError, suggestion
from lopsided_settings import settings_of

Kind = TypeVar("Kind", bound=type)


def check_settings(config: Any) -> None:
    """Check every field of a configuration against what its declaration allows.

    A path that is given as text becomes a `Path`, and the other way round where the field holds a text, as `task` does.
    Rules about several fields at once belong to the configuration type.

    Raises:
        LopsidedError: for the first field whose value makes no sense.
    """
    # As Any: to mypy not every class is hashable.
    kind: Any = type(config)
    hints = _types(kind)
    for name, setting in settings_of(type(config)).items():
        given = getattr(config, name)
        value = _as_declared(name, given, hints[name])
        if value is not given:
            _take(config, name, value)
        if value is None or setting.check is None:
            continue
        problem = setting.check.problem(name, value)
        if problem is not None:
            raise LopsidedError(problem + suggestion(str(value), setting.check.known))


@functools.cache
def _types(kind: type) -> dict[str, frozenset[Any]]:
    """Return the types that each field of a configuration type may hold."""
    hints = typing.get_type_hints(kind)
    return {name: frozenset(typing.get_args(hint) or (hint,)) for name, hint in hints.items()}


def _take(self: Any, name: str, value: Any) -> None:
    # A configuration is frozen, but not yet in anyone's hands when its fields are checked.
    object.__setattr__(self, name, value)


def _as_declared(name: str, value: Any, types: frozenset[Any]) -> Any:
    """Return a path or a text as the one of the two that the field holds; anything else as it is."""
    if Path in types:
        if value is not None and not isinstance(value, str | Path):
            raise LopsidedError(f"{name} must be a path, got {value!r}; pass a str or a pathlib.Path")
        return Path(value) if isinstance(value, str) else value
    return str(value) if str in types and isinstance(value, Path) else value


def documented(kind: Kind) -> Kind:
    """Add the fields' help to a configuration type's docstring, as its section `Args`."""
    types = {name: inspect.formatannotation(hint) for name, hint in typing.get_type_hints(kind).items()}
    lines = [f"    {name} ({types[name]}): {setting.help}" for name, setting in settings_of(kind).items()]
    kind.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__ or ""), "", "Args:", *lines, ""])
    return kind
