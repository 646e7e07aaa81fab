"""Runs of tiny models."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread):
    """Tiny matrices, in every test of this room."""
