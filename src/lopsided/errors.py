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


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a question to append to an error about an unknown name.

    Args:
        name: what was received.
        known: the names that are valid.

    Returns:
        `" did you mean 'x'?"`, or `""` when no known name is close.

    Example:
        >>> nearest("acuracy", ["accuracy", "f1"])
        " did you mean 'accuracy'?"
        >>> nearest("zzz", ["accuracy", "f1"])
        ''
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" did you mean '{close[0]}'?" if close else ""


def first_line(error: BaseException) -> str:
    """Return an error as one line: the first line of its text, or its type where the text is empty.

    Example:
        >>> first_line(ValueError("\\none\\ntwo")), first_line(OSError())
        ('one', 'OSError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
