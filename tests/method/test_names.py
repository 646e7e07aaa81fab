"""Methods by name: the table's own, and those of a space."""

from __future__ import annotations

import pytest

from lopsided import METHODS, LopsidedError
from lopsided.method import NAMESPACES, method_named, register
from lopsided.method.sketch import sketch_named


@pytest.fixture
def elsewhere(monkeypatch):
    """A space of which every name is cla's."""

    def named(name):
        if name != "cla":
            raise LopsidedError(f"no {name} elsewhere")
        return METHODS["cla"]

    monkeypatch.setitem(NAMESPACES, "elsewhere", named)


def test_a_space_answers_for_its_names(elsewhere):
    assert method_named("elsewhere:cla") is METHODS["cla"]
    with pytest.raises(LopsidedError, match="no lora elsewhere"):
        method_named("elsewhere:lora")


def test_an_unknown_space_or_name_is_named_with_the_nearest(elsewhere):
    with pytest.raises(LopsidedError, match=r"method 'elswhere:cla': unknown space 'elswhere'.*mean 'elsewhere'"):
        method_named("elswhere:cla")
    with pytest.raises(LopsidedError, match=r"unknown method 'clla'.*did you mean 'cla'"):
        method_named("clla")


def test_a_registered_name_has_no_colon():
    with pytest.raises(LopsidedError, match="colon"):
        register("elsewhere:mine", train="B", sketch=sketch_named("Columns"), source="here")
    assert "elsewhere:mine" not in METHODS
