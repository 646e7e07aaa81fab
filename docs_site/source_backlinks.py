"""Links from the shown source back to the documentation, where viewcode names the wrong package.

viewcode takes one package for all that a source file holds: the one whose page names a thing of the file first. Of
`method/dense.py` that is `lopsided`, while `UnitRows` is documented as `lopsided.method.UnitRows`. A page of the API is
called after its package, so that the link says itself which one it should have been.
"""

from __future__ import annotations

import re
from typing import Any

SOURCES = "_modules/"


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("html-page-context", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _process(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    # By module: the source, its tags, where each name is documented, and the one package.
    entry = app.env._viewcode_modules.get(pagename.removeprefix(SOURCES).replace("/", "."))
    if pagename.startswith(SOURCES) and entry:
        context["body"] = with_own_packages(context["body"], entry[3])


def with_own_packages(body: str, package: str) -> str:
    """Return a page with each link into the API under the package of the page that it leads to.

    Args:
        package: the one that all links have.

    Example:
        >>> with_own_packages('<a href="../api/lopsided.method.html#lopsided.UnitRows">', "lopsided")
        '<a href="../api/lopsided.method.html#lopsided.method.UnitRows">'
    """
    return re.sub(rf'(href="[^"]*/api/([\w.]+)\.html#){re.escape(package)}\.', r"\1\2.", body)
