"""The errors and the warning of this library, and their words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LopsidedError(ValueError):
    """Bad input or a state that cannot go on: one line that says expected, received, fix.

    The command line prints it and exits with status 2.
    """


class UnknownArgument(LopsidedError, TypeError):
    """An argument that a configuration does not have: a TypeError as well, as for any unknown keyword."""


class LopsidedWarning(UserWarning):
    """Something that works, but may not be what the user expects."""


def suggestion(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the end of an error about an unknown name, with the semicolon before it.

    Args:
        name: what was received.
        known: the names that would have done.
        otherwise: what to do where no known name is close; empty where the error has said it.

    Example:
        >>> suggestion("acuracy", ["accuracy", "f1"])
        "; did you mean 'accuracy'?"
        >>> suggestion("zzz", ["accuracy", "f1"], "choose one of them"), suggestion("zzz", ["accuracy", "f1"])
        ('; choose one of them', '')
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else otherwise and f"; {otherwise}"


def first_line(error: BaseException) -> str:
    """Return an error as one line: the first line of its text, or its type where the text is empty.

    Example:
        >>> first_line(ValueError("\\none\\ntwo")), first_line(OSError())
        ('one', 'OSError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(what: str, name: str, known: Iterable[str], expected: str = "one of") -> str:
    """Return the error about a name that is not in a table: what was received, what was expected, and the nearest.

    Example:
        >>> unknown("metric", "acuracy", ["accuracy", "f1"])
        "unknown metric 'acuracy'; expected one of accuracy, f1; did you mean 'accuracy'?"
        >>> unknown("metric", "zzz", ["accuracy", "f1"])
        "unknown metric 'zzz'; expected one of accuracy, f1"
    """
    names = list(known)
    return f"unknown {what} {name!r}; expected {expected} {', '.join(names)}{suggestion(name, names)}"
