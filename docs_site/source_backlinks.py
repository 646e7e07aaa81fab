"""Links from the shown source back to the documentation, where viewcode would make them to names that are not there.

viewcode takes the name of one package for all that a source file holds: the package that names a thing of the file
first. Of `method/dense.py` that is `lopsided`, while `UnitRows` is documented as `lopsided.method.UnitRows`.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx, before viewcode writes its pages."""
    app.connect("html-collect-pages", _without_dead_backlinks, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _without_dead_backlinks(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    documented = app.env.domains["py"].data["objects"]
    # By module: the source, its tags, where each name is documented, and the package's name; False without a source.
    for entry in app.env._viewcode_modules.values():
        if entry:
            drop_unknown(entry[2], entry[3], documented)
    return iter(())


def drop_unknown(used: MutableMapping[str, str], package: str, documented: MutableMapping[str, Any]) -> None:
    """Remove the names that are not documented as those of a package.

    Example:
        >>> used = {"adapt": "api/lopsided", "UnitRows": "api/lopsided.method"}
        >>> drop_unknown(used, "lopsided", {"lopsided.adapt": ...})
        >>> used
        {'adapt': 'api/lopsided'}
    """
    for name in [name for name in used if f"{package}.{name}" not in documented]:
        del used[name]
