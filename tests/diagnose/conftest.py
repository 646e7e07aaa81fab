"""The fixtures of `train_helpers`, and a cache of the tests' own."""

import pytest
from train_helpers import bert, llama, one_thread, run_once, words

__all__ = ["bert", "llama", "one_thread", "run_once", "words"]


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOPSIDED_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
