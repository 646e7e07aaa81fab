"""The pytest plugin: our rows go in, failures are held against the reasons, and counts against the committed ones."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from lopsided import LopsidedConfig

from . import rows, seams
from .counting import Counting
from .reasons import reason_for


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--counts",
        choices=("compare", "write", "show"),
        default="show",
        help="compare the counts with the committed ones, write them, or only show them (for a part of the suite)",
    )


def pytest_configure(config: pytest.Config) -> None:
    seams.install()
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Counting(config.getoption("counts")))


# -- rows ----------------------------------------------------------------------------------------------------------

_TRANSLATED: dict[int, list[Any]] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # The module itself, and the one that its class inherits tests from.
    for cls in metafunc.cls.__mro__[:-1] if metafunc.cls is not None else ():
        seams.adjust(sys.modules[cls.__module__])
    for mark in metafunc.definition.iter_markers("parametrize"):
        values = mark.args[1]
        # Lists are shared between tests and hold ours after the first one.
        if isinstance(values, list) and id(values) not in _TRANSLATED:
            _TRANSLATED[id(values)] = values
            translated = rows.ours(mark.args[0], values)
            if translated is not None:
                values[:] = translated


def pytest_make_parametrize_id(val: object) -> str | None:
    if isinstance(val, dict) and "method" in val:
        return rows.Subject(val["method"], val.get("start", 0)).name
    return f"{val.method}-r{val.r}" if isinstance(val, LopsidedConfig) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out every test that holds no configuration of ours: it tests PEFT's own tuners."""
    mine = [item for item in items if any(map(rows.is_ours, _parameters(item))) and not _is_left_out(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(mine)])
    items[:] = mine


def _is_left_out(item: pytest.Item) -> bool:
    return not rows.NOT_RUN.keys().isdisjoint({_name(item), f"{item.path.name}::{_name(item)}"})


def _name(item: pytest.Item) -> str:
    return item.originalname if isinstance(item, pytest.Function) else item.name


def _parameters(item: pytest.Item) -> list[Any]:
    return list(item.callspec.params.values()) if "callspec" in vars(item) else []


def pytest_runtest_setup() -> None:
    # Some of PEFT's tests draw without a seed; what they draw must not depend on the tests before them.
    torch.manual_seed(0)


# -- failures ------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Report a failure that has a reason as an expected one, by the reason's name."""
    report = yield
    if report.failed:
        reason = reason_for(_name(item), report.longreprtext)
        if reason is not None:
            report.outcome, report.wasxfail = "skipped", reason.name
    return report
