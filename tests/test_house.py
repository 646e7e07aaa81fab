"""The plan of the house: rooms import only rooms above them in this list."""

import ast
from collections.abc import Iterator
from pathlib import Path

HOUSE = Path(__file__).parents[1] / "src" / "lopsided"
ROOMS = [
    *("errors", "formatting", "method", "methods", "files", "models", "tuner", "optim", "adapt", "export"),
    *("testing", "tasks", "theory", "runs", "verify", "plotting", "lab", "advise", "diagnose", "study", "report"),
]


def test_imports_go_one_way():
    for path in HOUSE.rglob("*.py"):
        room = path.relative_to(HOUSE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if room != "__init__" and isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lopsided."):
                other = node.module.split(".")[1]
                assert ROOMS.index(other) <= ROOMS.index(room), f"{path}: {room} imports {other}"


# Where the name of a run's record stands outside `runs/`, and why.
NAMES_THE_RECORD = {"models/load.py": "a room below runs/; tells a run directory that is given as a model"}


def imports_runs(tree: ast.AST) -> bool:
    """Whether a module could read run directories; other files have records of their own."""
    froms = (node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return any(f"{module}.".startswith("lopsided.runs.") for module in froms)


def readings_of_a_record(tree: ast.AST) -> Iterator[str]:
    """What a module reads of `run.json` without `Run`: its name as a path, a record's attribute, its keys."""
    reads_runs = imports_runs(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and str(node.value).rpartition("/")[2] == "run.json":
            yield f"line {node.lineno}: the name run.json; take lopsided.runs.RECORD, or read with lopsided.runs.Run"
        elif reads_runs and isinstance(node, ast.expr) and is_part_of_a_record(node):
            yield f"line {node.lineno}: {ast.unparse(node)}; take a property of lopsided.runs.Run"


def is_part_of_a_record(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(attr="record"):
            return True
        case ast.Subscript(value=ast.Name(id="record"), slice=ast.Constant(value=str())):
            return True
        case ast.Subscript(value=ast.Call(func=ast.Attribute(attr="to_json")), slice=ast.Constant(value=str())):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="record"), attr="get")):
            return True
    return False


def test_a_run_directory_is_read_through_run_alone():
    found = {}
    for path in [*HOUSE.rglob("*.py"), *HOUSE.with_name("lopsided_cli").rglob("*.py")]:
        name = path.relative_to(HOUSE.parent).as_posix().removeprefix("lopsided/")
        if not name.startswith("runs/") and (readings := list(readings_of_a_record(ast.parse(path.read_text())))):
            found[name] = readings
    assert found.keys() == NAMES_THE_RECORD.keys(), found


def test_the_gate_for_run_directories_sees_what_it_forbids():
    runs = "from lopsided.runs import Run\n"
    forbidden = ["run.record", 'record["config"]', 'record.get("status")', 'run.to_json()["metrics"]']
    for source in ['folder / "run.json"', 'open("a/run.json")', *(runs + source for source in forbidden)]:
        assert list(readings_of_a_record(ast.parse(source))), source
    allowed = ['f"{folder} without a run.json"', "record[at]", "run.config", "run.to_json()", 'why.get("se")']
    for source in [*(runs + source for source in allowed), *forbidden]:
        assert not list(readings_of_a_record(ast.parse(source))), source
