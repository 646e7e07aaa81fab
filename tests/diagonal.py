"""Products of cases, of which `make test` runs a diagonal and `make more` the rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest


def diagonal(rows: Iterable[Any], columns: Iterable[Any], *, share: int) -> list[Any]:
    """Every pair of a row and a column; a pair that is not on every `share`-th diagonal is marked `more`.

    With as many columns as `share` or more, each row has a pair in `make test`, and so has each column.
    """
    return [
        pytest.param(row, column, marks=[] if (i + j) % share == 0 else [pytest.mark.more])
        for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns))
    ]
