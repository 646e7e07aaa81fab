"""The page on layers shows what the contracts say now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.more
@pytest.mark.uncalibrated
def test_the_table_of_layers_is_what_the_contracts_say():
    spec = importlib.util.spec_from_file_location("write_layers", DOCS / "write_layers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "layers.md").read_text(encoding="utf-8")
    assert module.written(page) == page, "run: python docs/write_layers.py"
    assert "all but" not in page
