"""What every public function of the theory says of itself."""

from __future__ import annotations

import inspect

import pytest

import lopsided.theory as theory

FUNCTIONS = [name for name in theory.__all__ if inspect.isfunction(getattr(theory, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_names_its_units_and_its_source(name):
    text = inspect.getdoc(getattr(theory, name))
    for heading in ("Units:", "Source:"):
        assert text.count(heading) == 1, heading
        said = text.split(heading)[1].strip()
        assert len(said) > 10
