"""The fixtures of `train_helpers`, and libraries as talkative after a command as before it."""

import warnings

import datasets
import pytest
from cli_helpers import lopsided
from train_helpers import bert, llama, one_thread, pairs, phrases, words
from transformers.utils import logging

__all__ = ["bert", "llama", "one_thread", "pairs", "phrases", "words"]


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
