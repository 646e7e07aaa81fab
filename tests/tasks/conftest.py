"""What the tests of tasks share: real data where it is at hand, and folders of written rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lopsided.errors import LopsidedError
from lopsided.tasks import vader

Row = dict[str, Any]


@pytest.fixture(scope="session")
def data() -> Path:
    """The shared folder of real data sets."""
    beside = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("LOPSIDED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set LOPSIDED_DATA")
    return folder


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of VADER's ratings, fetched once a session, or from $LOPSIDED_CACHE."""
    with pytest.MonkeyPatch.context() as patch:
        if "LOPSIDED_CACHE" not in os.environ:
            patch.setenv("LOPSIDED_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            return vader.fetch()
        except LopsidedError as error:
            pytest.skip(f"the ratings cannot be fetched: {error}")


@pytest.fixture
def cached(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder with the archive in it, in force."""
    monkeypatch.setenv("LOPSIDED_CACHE", str(archive.parent))
    return archive.parent


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of JSON lines; a split is a list of rows, or the text of the file."""

    def write_folder(**splits: list[Row] | str) -> Path:
        for split, rows in splits.items():
            text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
        return tmp_path

    return write_folder
