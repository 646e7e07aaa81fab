"""A page per package whose `__all__` names what others may call; Sphinx's autodoc fills it from the docstrings."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import lopsided
from docs_site.docstring_markup import restructured
from docs_site.page_parts import GENERATED
from docs_site.staged_tree import StagedTree

FOLDER = "api"


def packages() -> list[str]:
    """Return the names of the packages with an `__all__`, `lopsided` first."""
    names = [found.name for found in pkgutil.walk_packages(lopsided.__path__, "lopsided.") if found.ispkg]
    return ["lopsided", *(name for name in names if "__all__" in vars(importlib.import_module(name)))]


def places() -> dict[str, dict[str, Any]]:
    """Return, by package, the public names that its page documents: each object once, where it is found first."""
    seen: set[int] = set()
    found: dict[str, dict[str, Any]] = {}
    for package in packages():
        module = importlib.import_module(package)
        found[package] = {}
        for name in module.__all__:
            value = getattr(module, name)
            if id(value) not in seen and not inspect.ismodule(value):
                seen.add(id(value))
                found[package][name] = value
    return {package: names for package, names in found.items() if names}


def put_api(tree: StagedTree) -> None:
    """Put the pages of all packages into a tree."""
    documented = places()
    for package, names in documented.items():
        tree.put(f"{FOLDER}/{package}.rst", package_page(importlib.import_module(package), names))
    tree.put(f"{FOLDER}/index.md", index_page(documented))


def index_page(documented: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page that lists the packages."""
    lines = [
        f"- [`{package}`]({package}.rst): {_first_line(importlib.import_module(package))}" for package in documented
    ]
    about = (
        "What may be called from outside, by package. The names of `lopsided` itself are the contract: they stay, and "
        "change with a line in the [changelog](../changelog.md) alone. `lopsided.methods`, `lopsided.theory` and the "
        "other packages may change between minor versions."
    )
    hidden = "```{toctree}\n:hidden:\n\n" + "\n".join(documented) + "\n```"
    return "\n\n".join(["# Python", GENERATED, about, "\n".join(lines), hidden]) + "\n"


def package_page(module: ModuleType, names: Mapping[str, Any]) -> str:
    """Return a package's page: its docstring, then every public name."""
    title = module.__name__
    doc = "\n".join(restructured(inspect.cleandoc(module.__doc__ or "").splitlines()))
    elsewhere = [name for name in module.__all__ if name not in names]
    parts = [f"{title}\n{'=' * len(title)}", ".. " + GENERATED.strip("<!-> "), doc]
    if elsewhere:
        parts.append("Described elsewhere: " + ", ".join(f"``{name}``" for name in elsewhere) + ".")
    # A module directive, so that the names below have this module before them.
    parts.append(f".. py:module:: {title}\n   :no-index:\n\n.. py:currentmodule:: {title}")
    parts += [_directive(name, value) for name, value in names.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _directive(name: str, value: Any) -> str:
    if inspect.isclass(value):
        return f".. autoclass:: {name}\n   :members:\n   :member-order: bysource"
    if inspect.isfunction(value):
        return f".. autofunction:: {name}"
    return f".. py:data:: {name}\n\n   {_contents(value)}"


def _contents(value: Any) -> str:
    """Return what a table holds, in a line."""
    if isinstance(value, Mapping):
        return f"A table of {len(value)}: " + ", ".join(f"``{key}``" for key in value) + "."
    if isinstance(value, tuple | list):
        return "``" + ", ".join(getattr(item, "__name__", str(item)) for item in value) + "``"
    return f"``{value!r}``"


def _first_line(module: ModuleType) -> str:
    return " ".join((module.__doc__ or "").strip().split("\n\n")[0].split())


def public_names() -> Iterator[str]:
    """Yield the full name of everything that the pages document."""
    for package, names in places().items():
        yield from (f"{package}.{name}" for name in names)
