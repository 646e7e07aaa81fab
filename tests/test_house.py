"""The plan of the house: rooms import only rooms above them in this list."""

import ast
from pathlib import Path

HOUSE = Path(__file__).parents[1] / "src" / "lopsided"
ROOMS = [
    *("errors", "settings", "formatting", "method", "methods", "files", "models", "tuner", "optim", "adapt", "export"),
    *("testing", "tasks", "theory", "runs", "verify", "plotting", "lab", "advise", "diagnose", "study", "report"),
]


def test_imports_go_one_way():
    for path in HOUSE.rglob("*.py"):
        room = path.relative_to(HOUSE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if room != "__init__" and isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lopsided."):
                other = node.module.split(".")[1]
                assert ROOMS.index(other) <= ROOMS.index(room), f"{path}: {room} imports {other}"
