"""Errors as text: one line of each, and the name that was meant."""

from __future__ import annotations

import pytest

from lopsided.errors import LopsidedError, LopsidedWarning, first_line, nearest


@pytest.mark.parametrize(
    ("error", "line"), [(OSError(), "OSError"), (ValueError("\none\ntwo"), "one"), (RuntimeError("a\nb"), "a")]
)
def test_an_error_is_one_line_of_a_record(error, line):
    assert first_line(error) == line


def test_classes_are_what_callers_catch():
    assert issubclass(LopsidedError, ValueError)
    assert issubclass(LopsidedWarning, UserWarning)


def test_nearest_names_a_close_one_or_nothing():
    assert nearest("tweet", ["movie", "tweets"]) == " did you mean 'tweets'?"
    assert nearest("zzz", ["movie", "tweets"]) == ""
    assert nearest("zzz", []) == ""
