"""A field of a configuration type, and all that is said about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lopsided_settings.checks import Check
from lopsided_settings.texts import CommaSeparated

_KEY = "setting"


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What a field's declaration says besides its name, type and default.

    Args:
        help: a sentence for the command line's help and the configuration type's docstring.
        check: the valid values; None for any of the type. A field's value None is always valid.
        text: how the command line writes the value, where that is no single number, word or flag.
        flags: the names of a flag's two sides, "--yes/--no"; None takes --NAME and --no-NAME.
        option: whether the command line has it.
        not_in: the verbs that take the configuration type, and have no option for this field.
        defaults: by verb, the defaults that replace the field's own, even where the verb has no option for it.
    """

    help: str
    check: Check | None = None
    text: CommaSeparated | None = None
    flags: str | None = None
    option: bool = True
    not_in: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def is_option_of(self, verb: str) -> bool:
        """Return whether a verb has an option for this field."""
        return self.option and verb not in self.not_in


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    check: Check | None = None,
    text: CommaSeparated | None = None,
    flags: str | None = None,
    option: bool = True,
    not_in: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Any:
    """Declare a field of a configuration type; the arguments are those of `Setting`.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Garden:
        ...     trees: int = setting(3, help="How many trees.")
        >>> Garden().trees, settings_of(Garden)["trees"].help
        (3, 'How many trees.')
    """
    declaration = Setting(
        help=help, check=check, text=text, flags=flags, option=option, not_in=not_in, defaults=defaults or {}
    )
    return field(default=default, metadata={_KEY: declaration})


def settings_of(kind: type) -> dict[str, Setting]:
    """Return what the fields of a configuration type declare, by name; fields of another kind are left out."""
    return {each.name: each.metadata[_KEY] for each in dataclasses.fields(kind) if _KEY in each.metadata}
