"""Valid values of a setting, and the words of the error about another one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Check:
    """A range or a choice that a value must lie in.

    Args:
        allows: returns whether a value is valid. A range must reject NaN.
        words: the error about an invalid value, with {name} and {value} in it.
        known: the valid names, to suggest one for a misspelt name; empty where a value is a number.
    """

    allows: Callable[[Any], bool]
    words: str
    known: tuple[str, ...] = ()

    def problem(self, name: str, value: Any) -> str | None:
        """Return what is wrong with the value of the setting of that name, or None if nothing is.

        Example:
            >>> at_least(1).problem("rank", 0)
            'rank must be at least 1, got 0'
            >>> at_least(1).problem("rank", 4)
        """
        return None if self.allows(value) else self.words.format(name=name, value=value)


def at_least(least: int) -> Check:
    """Return the check of a number that must not be below `least`."""
    return Check(lambda value: value >= least, f"{{name}} must be at least {least}, got {{value}}")


def below(end: float, written: str) -> Check:
    """Return the check of a number that must lie in [0, `end`); `written` is how the error writes `end`."""
    return Check(lambda value: 0 <= value < end, f"{{name}} must lie in [0, {written}), got {{value}}")


def one_of(names: tuple[str, ...], words: str = "unknown {name} {value!r}; expected one of {names}") -> Check:
    """Return the check of a choice; the words may have {names} in them."""
    return Check(lambda value: value in names, words.replace("{names}", ", ".join(names)), names)


POSITIVE = Check(lambda value: 0 < value < math.inf, "{name} must be positive, got {value}")
NOT_NEGATIVE = Check(lambda value: 0 <= value < math.inf, "{name} must not be negative, got {value}")
SHARE = below(1.0, "1")
# NumPy's generators, which draw the order of rows, take no other seeds.
SEED = below(2**32, "2^32")
