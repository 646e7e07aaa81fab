from __future__ import annotations

import pytest

from lopsided import METHODS
from lopsided.errors import LopsidedError
from lopsided.models.registry import MODELS
from lopsided.plugins import load_plugin

CODE = """
import lopsided
from lopsided.models.registry import MODELS, KnownModel

lopsided.register("mine", train="B", sketch=lopsided.Gaussian(), lr=1e-3, source="a test")
MODELS["mine"] = KnownModel(family="bert", hub="someone/mine")
"""


@pytest.fixture(autouse=True)
def _as_before():
    tables = [(table, dict(table)) for table in (METHODS, MODELS)]
    yield
    for table, before in tables:
        table.clear()
        table.update(before)


def test_a_file_adds_its_entries_once(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    module = load_plugin(file)
    assert "mine" in METHODS
    assert MODELS["mine"].hub == "someone/mine"
    # A second time it would register a name that is taken.
    assert load_plugin(file) is module


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\ny = z\n", r"mine.py:2: NameError: name 'z' is not defined; correct the file"),
        ("def f(:\n", r"mine.py:1: SyntaxError"),
        ("import no_such_package\n", r"mine.py:1: ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_a_file_that_fails_is_one_line_with_its_place(tmp_path, code, message):
    file = tmp_path / "mine.py"
    file.write_text(code)
    for _ in range(2):
        with pytest.raises(LopsidedError, match=message) as caught:
            load_plugin(file)
        assert "\n" not in str(caught.value)


def test_what_is_no_file_of_python_is_refused(tmp_path):
    with pytest.raises(LopsidedError, match="there is none at that path"):
        load_plugin(tmp_path / "none.py")
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(LopsidedError, match=r"ends with '\.txt'"):
        load_plugin(tmp_path / "mine.txt")
