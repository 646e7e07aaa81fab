"""The upgrade notes: every old name is gone, and every new one is there."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.documentation.blocks import ROOT

PAGE = (ROOT / "docs" / "upgrade.md").read_text(encoding="utf-8")
MOVES = re.findall(r"^\| `(lopsided[\w.]*)` \| (.+) \|$", PAGE, flags=re.M)


def exists(name: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return bool(module) and exists(module) and attribute in vars(importlib.import_module(module))
    return True


@pytest.mark.parametrize(("was", "now"), MOVES)
def test_what_moved_is_where_the_page_says(was, now):
    names = re.findall(r"`([\w.]+)`", now)
    assert names
    assert all(exists(name) for name in names)
    assert not exists(was)


def test_the_page_has_moves_and_the_check_can_fail():
    assert len(MOVES) > 5
    assert exists("lopsided.adapt")
    assert not exists("lopsided.nothing.at_all")
