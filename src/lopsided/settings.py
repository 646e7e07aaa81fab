"""The checks and the documentation of configuration types, from what their fields declare."""

from __future__ import annotations

import inspect
import typing
from typing import Any, TypeVar

from lopsided.errors import LopsidedError, suggestion
from lopsided_settings import settings_of

Kind = TypeVar("Kind", bound=type)


def check_settings(config: Any) -> None:
    """Check every field of a configuration against what its declaration allows.

    Rules about several fields at once belong to the configuration type.

    Raises:
        LopsidedError: for the first field whose value makes no sense.
    """
    for name, setting in settings_of(type(config)).items():
        value = getattr(config, name)
        if value is None or setting.check is None:
            continue
        problem = setting.check.problem(name, value)
        if problem is not None:
            raise LopsidedError(problem + suggestion(str(value), setting.check.known))


def documented(kind: Kind) -> Kind:
    """Add the fields' help to a configuration type's docstring, as its section `Args`."""
    types = {name: inspect.formatannotation(hint) for name, hint in typing.get_type_hints(kind).items()}
    lines = [f"    {name} ({types[name]}): {setting.help}" for name, setting in settings_of(kind).items()]
    kind.__doc__ = "\n".join([inspect.cleandoc(kind.__doc__ or ""), "", "Args:", *lines, ""])
    return kind
