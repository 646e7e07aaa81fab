"""JSON that every parser reads: a number that is not finite is a null with a reason."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest

from lopsided import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.files.strict_json import dumps, loads, reasons, strict

ROOT = Path(__file__).parents[2]


def parsed(text: str):
    """As a parser that knows no NaN reads it."""

    def refuse(token: str):
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(("number", "said"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
@pytest.mark.parametrize("kind", [float, np.float64])
def test_a_number_that_is_not_finite_is_null_and_said(number, said, kind, tmp_path):
    record = {"a": {"loss": [0.5, kind(number)]}, "b": (kind(number), 1), "c": "NaN", "d": None}
    write_json(tmp_path / "x.json", record)
    found = parsed((tmp_path / "x.json").read_text())
    assert found["a"]["loss"] == [0.5, None]
    assert (found["b"], found["c"], found["d"]) == ([None, 1], "NaN", None)
    assert found["nulls"] == {"a.loss.1": said, "b.0": said}
    # A second time nothing is left to say, and nothing is forgotten.
    assert parsed(dumps(found)) == found
    assert reasons(found) == {"a.loss.1": said, "b.0": said}


def test_what_is_finite_is_left_as_it_is():
    record = {"a": [1, 2.5, True, None, "x"], "b": {}}
    assert strict(record) == record
    assert strict([record, {"x": math.nan}]) == [record, {"x": None, "nulls": {"x": "NaN"}}]


def test_a_number_alone_has_no_place_for_the_reason(tmp_path):
    for value in (math.nan, [0.5, math.inf]):
        with pytest.raises(LopsidedError, match="expected a finite number"):
            dumps(value)
        with pytest.raises(LopsidedError):
            write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


def test_files_of_earlier_versions_are_read():
    assert loads('{"se": NaN, "values": [Infinity, 1]}') == {
        "se": None,
        "values": [None, 1],
        "nulls": {"se": "NaN", "values.0": "Infinity"},
    }


@pytest.mark.parametrize("folder", ["src", "benchmarks"])
def test_nothing_writes_json_that_may_not_be_strict(folder):
    """Every call of json.dump and json.dumps says allow_nan=False."""
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names = {alias.asname or alias.name for alias in imports if alias.name == "json"}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "json":
                assert not {"dump", "dumps"} & {alias.name for alias in node.names}, path
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in names and node.func.attr in ("dump", "dumps"):
                refused = [k for k in node.keywords if k.arg == "allow_nan" and ast.unparse(k.value) == "False"]
                assert refused, f"{path}:{node.lineno}"


def test_no_recorded_file_holds_nan():
    paths = [*(ROOT / "docs").rglob("*.json"), *(ROOT / "tests").rglob("*.json")]
    assert paths
    for path in paths:
        parsed(path.read_text())
