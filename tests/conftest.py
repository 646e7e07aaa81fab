"""Settings that every test shares; set before any library is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _threads():
    # Where two processes share the tests, each has a core of its own.
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
