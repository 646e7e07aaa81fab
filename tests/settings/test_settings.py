"""A field's declaration: what it holds, what its check says, and how its text is read."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from lopsided import LopsidedError
from lopsided.diagnose import DiagnoseConfig
from lopsided.runs import TrainConfig
from lopsided.settings import check_settings, documented
from lopsided_settings import settings_of
from lopsided_settings.checks import NOT_NEGATIVE, POSITIVE, SEED, SHARE, at_least, one_of
from lopsided_settings.field import setting
from lopsided_settings.texts import NAME_TUPLE, NAMES, PAIRS, WHOLE_NUMBERS
from lopsided_settings.train import TrainSettings

NAN = math.nan


@pytest.mark.parametrize(
    ("check", "valid", "problems"),
    [
        (at_least(2), [2, 3], {1: "x must be at least 2, got 1"}),
        (POSITIVE, [1e-9, 3], dict.fromkeys([0, -1, math.inf, NAN], "x must be positive, got")),
        (NOT_NEGATIVE, [0, 3], dict.fromkeys([-1, math.inf, NAN], "x must not be negative, got")),
        (SHARE, [0, 0.5], dict.fromkeys([-0.1, 1, NAN], "x must lie in [0, 1), got")),
        (SEED, [0, 2**32 - 1], dict.fromkeys([-1, 2**32], "x must lie in [0, 2^32), got")),
        (one_of(("up", "down")), ["up"], {"pu": "unknown x 'pu'; expected one of up, down"}),
        (one_of(("up",), "{name} goes {names}, got {value}"), ["up"], {"left": "x goes up, got left"}),
    ],
)
def test_a_check_has_its_words(check, valid, problems):
    assert [check.problem("x", value) for value in valid] == [None] * len(valid)
    for value, words in problems.items():
        assert check.problem("x", value).startswith(words)


@pytest.mark.parametrize(
    ("text", "given", "value"),
    [
        (NAMES, "a, b", ["a", "b"]),
        (NAME_TUPLE, "a", ("a",)),
        (WHOLE_NUMBERS, "2,0", (2, 0)),
        (PAIRS, "no=yes,a=b=c", {"no": "yes", "a": "b=c"}),
    ],
)
def test_a_text_becomes_a_value(text, given, value):
    assert text.read(given) == value
    assert text.read(text.example) is not None


@pytest.mark.parametrize(
    ("text", "given"),
    [(NAMES, "a,"), (NAME_TUPLE, ""), (WHOLE_NUMBERS, "0,x"), (WHOLE_NUMBERS, ""), (PAIRS, "a=b,c="), (PAIRS, "=b")],
)
def test_a_text_that_writes_no_value(text, given):
    with pytest.raises(ValueError, match=r"expected|invalid"):
        text.read(given)


@dataclass(frozen=True, kw_only=True)
class Trip:
    """A trip."""

    days: int = setting(3, help="Its length.", check=at_least(1))
    way: str | None = setting(None, help="How to go.", check=one_of(("walk", "ride")))
    name: str = "no setting"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place."""

    out: Path | None = setting(None, help="A folder.")
    task: str = setting("a", help="A name or a folder.")

    def __post_init__(self) -> None:
        check_settings(self)


def test_a_path_may_be_a_text_and_a_text_a_path():
    place = Place(out="here/there", task=Path("rows"))
    assert (place.out, place.task) == (Path("here/there"), "rows")
    assert (Place().out, Place(out=Path("x")).out) == (None, Path("x"))
    with pytest.raises(LopsidedError, match=r"^out must be a path, got 3; pass a str or a pathlib\.Path$"):
        Place(out=3)
    assert TrainConfig(out="name", task=Path("rows")) == TrainConfig(out=Path("name"), task="rows")
    assert DiagnoseConfig(reference="text.txt").reference == Path("text.txt")


def test_the_fields_are_checked_one_by_one():
    check_settings(Trip())
    with pytest.raises(LopsidedError, match=r"^days must be at least 1, got 0$"):
        check_settings(Trip(days=0))
    with pytest.raises(LopsidedError, match=r"^unknown way 'wlk'; expected one of walk, ride; did you mean 'walk'\?$"):
        check_settings(Trip(way="wlk"))
    with pytest.raises(LopsidedError, match=r"^unknown way 'zzz'; expected one of walk, ride$"):
        check_settings(Trip(way="zzz"))


def test_the_docstring_lists_what_is_declared():
    assert documented(Trip).__doc__ == (
        "A trip.\n\nArgs:\n    days (int): Its length.\n    way (str | None): How to go.\n"
    )
    listed = TrainConfig.__doc__.partition("Args:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == [field.name for field in dataclasses.fields(TrainConfig)]


def test_every_default_is_valid_and_every_field_of_a_run_is_declared():
    assert list(settings_of(TrainSettings)) == [field.name for field in dataclasses.fields(TrainConfig)]
    for name, declared in settings_of(TrainSettings).items():
        assert declared.help.endswith("."), name
        for value in declared.defaults.values():
            assert declared.check is None or declared.check.problem(name, value) is None
    check_settings(TrainConfig(out=Path("run")))
