"""Processes of a test, which end with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federated.processes import Processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    own = Processes(tmp_path)
    yield own
    own.end_all()
