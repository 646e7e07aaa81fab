"""Valid values of a setting, and the words of the error about another one."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Any


class Check(abc.ABC):
    """A range or a choice that a value must lie in."""

    @abc.abstractmethod
    def problem(self, name: str, value: Any) -> str | None:
        """Return what is wrong with the value of the setting of that name, or None if nothing is."""

    @property
    def known(self) -> tuple[str, ...]:
        """The names that a misspelt one may have been meant for; none where a value is a number."""
        return ()


@dataclass(frozen=True)
class AtLeast(Check):
    """A number that is not below `least`."""

    least: int

    def problem(self, name: str, value: Any) -> str | None:
        """Return what is wrong with a number below `least`."""
        return None if value >= self.least else f"{name} must be at least {self.least}, got {value}"


@dataclass(frozen=True)
class Positive(Check):
    """A finite number above 0."""

    def problem(self, name: str, value: Any) -> str | None:
        """Return what is wrong with a number that is not positive or not finite."""
        return None if 0 < value < math.inf else f"{name} must be positive, got {value}"


@dataclass(frozen=True)
class NotNegative(Check):
    """A finite number, 0 or above."""

    def problem(self, name: str, value: Any) -> str | None:
        """Return what is wrong with a number that is negative or not finite."""
        return None if 0 <= value < math.inf else f"{name} must not be negative, got {value}"


@dataclass(frozen=True)
class Below(Check):
    """A number in [0, `end`).

    Args:
        end: the first number that is too large.
        written: how an error writes `end`.
    """

    end: float
    written: str

    def problem(self, name: str, value: Any) -> str | None:
        """Return what is wrong with a number outside of the interval."""
        return None if 0 <= value < self.end else f"{name} must lie in [0, {self.written}), got {value}"


@dataclass(frozen=True)
class OneOf(Check):
    """One of a few names.

    Args:
        names: the choice.
        words: of the error, about `name`, `value` and `names`.
    """

    names: tuple[str, ...]
    words: str = "unknown {name} {value!r}; expected one of {names}"

    @property
    def known(self) -> tuple[str, ...]:
        """The choice."""
        return self.names

    def problem(self, name: str, value: Any) -> str | None:
        """Return what is wrong with another name."""
        if value in self.names:
            return None
        return self.words.format(name=name, value=value, names=", ".join(self.names))


SHARE = Below(1.0, "1")
# NumPy's generators, which draw the order of rows, take no other seeds.
SEED = Below(2**32, "2^32")
