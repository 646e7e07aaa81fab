"""What `target_modules` means as one text, in a configuration or on the command line."""

from __future__ import annotations

import re


def as_targets(text: str) -> list[str] | str:
    """Return names separated by commas as a list, and a regular expression or "all-linear" as it is.

    A single name becomes a list as well: as a string it would be a regular expression to PEFT, which the whole path
    of a module must match.

    Example:
        >>> as_targets("query, value"), as_targets("query"), as_targets(r".*\\.query")
        (['query', 'value'], ['query'], '.*\\\\.query')
        >>> as_targets("all-linear")
        'all-linear'
    """
    names = [name.strip() for name in text.split(",")]
    # The hyphen of "all-linear" is none of these characters.
    return names if all(re.fullmatch(r"[\w.]+", name) for name in names) else text
