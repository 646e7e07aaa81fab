"""Values that the command line writes as one word: names, numbers or pairs, separated by commas."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class CommaSeparated:
    """A value that is written as its parts, separated by commas.

    Args:
        parts: what the parts are, for an error, such as "names".
        example: a text that can be read, for an error.
        read_part: makes a part's value of its text; raises ValueError if it cannot.
        collect: makes the value of its parts' values.
    """

    parts: str
    example: str
    read_part: Callable[[str], Any]
    collect: Callable[[Iterable[Any]], Any]

    def read(self, text: str) -> Any:
        """Return the value that a text writes.

        Raises:
            ValueError: if a part of it cannot be read.

        Example:
            >>> NAMES.read("a, b"), WHOLE_NUMBERS.read("0,1"), PAIRS.read("no=yes")
            (['a', 'b'], (0, 1), {'no': 'yes'})
        """
        return self.collect([self.read_part(part) for part in text.split(",")])

    def write(self, value: Iterable[Any]) -> str:
        """Return the text of a value.

        Example:
            >>> WHOLE_NUMBERS.write((0, 1))
            '0,1'
        """
        return ",".join(map(str, value))


def _name(part: str) -> str:
    if not part.strip():
        raise ValueError("expected a name, received nothing")
    return part.strip()


def _pair(part: str) -> tuple[str, str]:
    old, _, new = part.partition("=")
    if not (old and new):
        raise ValueError(f"expected OLD=NEW, received {part!r}")
    return old, new


NAMES = CommaSeparated(parts="names", example="a,b", read_part=_name, collect=list)
NAME_TUPLE = CommaSeparated(parts="names", example="a,b", read_part=_name, collect=tuple)
WHOLE_NUMBERS = CommaSeparated(parts="whole numbers", example="0,1,2", read_part=int, collect=tuple)
PAIRS = CommaSeparated(parts="OLD=NEW pairs", example="no=yes,maybe=yes", read_part=_pair, collect=dict)
