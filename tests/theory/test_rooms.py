"""The theory is formulas: it reads methods and models, and no run, task or report."""

from __future__ import annotations

import ast
from pathlib import Path

import lopsided.theory as theory

ROOMS = {"errors", "files", "method", "methods", "models", "tuner", "optim", "adapt", "export", "testing", "theory"}


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the library that a module imports, at the top or inside of functions."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("lopsided.")}
        assert "lopsided" not in names, f"{path}: imports from the top, which imports everything"
    return rooms


def test_the_theory_imports_no_run_and_nothing_above_it():
    for path in Path(theory.__file__).parent.rglob("*.py"):
        assert imported_rooms(path) <= ROOMS, path
