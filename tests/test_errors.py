import pytest

from lopsided.errors import LopsidedError, LopsidedWarning, first_line, suggestion, unknown


@pytest.mark.parametrize(
    ("error", "line"), [(OSError(), "OSError"), (ValueError("\none\ntwo"), "one"), (RuntimeError("a\nb"), "a")]
)
def test_an_error_is_one_line_of_a_record(error, line):
    assert first_line(error) == line


def test_classes_are_what_callers_catch():
    assert issubclass(LopsidedError, ValueError)
    assert issubclass(LopsidedWarning, UserWarning)


@pytest.mark.parametrize(
    ("name", "otherwise", "end"),
    [
        ("tweet", "", "; did you mean 'tweets'?"),
        ("tweet", "leave it out", "; did you mean 'tweets'?"),
        ("zzz", "leave it out", "; leave it out"),
        ("zzz", "", ""),
    ],
)
def test_a_suggestion_brings_its_own_semicolon(name, otherwise, end):
    assert suggestion(name, ["movie", "tweets"], otherwise) == end
    assert suggestion(name, [], otherwise) == (f"; {otherwise}" if otherwise else "")


def test_an_unknown_name_is_told_with_the_known_and_the_nearest():
    assert unknown("domain", "tweet", {"movie": 1, "tweets": 2}) == (
        "unknown domain 'tweet'; expected one of movie, tweets; did you mean 'tweets'?"
    )
    assert unknown("domain", "zzz", ["movie"], "all or one of") == "unknown domain 'zzz'; expected all or one of movie"
