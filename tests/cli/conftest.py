"""Libraries as talkative after a command as before it."""

import warnings

import datasets
import pytest
from transformers.utils import logging

from tests.cli.commands import lopsided


@pytest.fixture(autouse=True)
def as_before():
    """A command silences libraries for the rest of its process, which here is the tests'."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        yield
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture
def cli(monkeypatch, capfd):
    """Runs a command: its exit status, stdout and stderr."""
    return lambda *arguments: lopsided(monkeypatch, capfd, *arguments)


@pytest.fixture
def tiny(bert, words):
    """Options of a run of eight steps on the tiny model."""
    lengths = ["--rank", 4, "--steps", 8, "--batch-size", 8, "--max-length", 16, "--lr", 0.01]
    return ["--model", bert, "--task", words, *lengths]


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread):
    """Tiny matrices, in every test of this room."""
