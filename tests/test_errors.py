"""Errors as text: one line of each, and the name that was meant."""

from __future__ import annotations

import pytest

from lopsided.errors import first_line, nearest


@pytest.mark.parametrize(
    ("error", "line"), [(OSError(), "OSError"), (ValueError("\none\ntwo"), "one"), (RuntimeError("a\nb"), "a")]
)
def test_an_error_is_one_line_of_a_record(error, line):
    assert first_line(error) == line


def test_a_name_that_is_close_is_asked_about():
    assert nearest("matthews", ["matthews_correlation", "f1"]) == ""
    assert nearest("f_1", ["accuracy", "f1"]) == " did you mean 'f1'?"
