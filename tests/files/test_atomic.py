"""Files of every kind are the old ones until the new ones are whole, and nothing is left behind."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

import lopsided.files.atomic
from lopsided.errors import LopsidedError
from lopsided.files.atomic import atomic_file, atomic_folder, write_arrays, write_json, write_text


def put(text):
    def write(path):
        with atomic_file(path) as temporary:
            temporary.write_text(text)

    return write


WRITERS = {
    "file": put,
    "text": lambda text: lambda path: write_text(path, text),
    "json": lambda text: lambda path: write_json(path, {"text": text}),
    "arrays": lambda text: lambda path: write_arrays(path, {"text": np.array([text])}),
}


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, kind, call):
    path = tmp_path / "x.npz"
    WRITERS[kind]("old")(path)
    old = path.read_bytes()

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lopsided.files.atomic.os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            WRITERS[kind]("new")(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["x.npz"]
    WRITERS[kind]("new")(path)
    assert path.read_bytes() != old
    assert os.listdir(tmp_path) == ["x.npz"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_new_file_has_the_mode_that_a_plain_one_has(tmp_path, kind):
    (tmp_path / "plain").touch()
    WRITERS[kind]("new")(tmp_path / "x.npz")
    assert (tmp_path / "x.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_error_inside_the_block_leaves_the_old_file(tmp_path):
    put("old")(tmp_path / "x")
    with pytest.raises(KeyError), atomic_file(tmp_path / "x") as temporary:
        raise KeyError(temporary.write_text("half"))
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_text_keeps_its_line_ends_and_may_lose_what_utf_8_has_no_bytes_for(tmp_path):
    write_text(tmp_path / "x", "é\r\nb\n")
    assert (tmp_path / "x").read_bytes() == "é\r\nb\n".encode()
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "x", "\udcff")
    write_text(tmp_path / "x", "a\udcffb", errors="replace")
    assert (tmp_path / "x").read_text() == "a?b"


def test_arrays_come_back_under_their_names(tmp_path):
    # A name that does not end with ".npz" is kept, and names of arrays may be any text.
    write_arrays(tmp_path / "rows", {"test|loss": np.arange(3.0)})
    with np.load(tmp_path / "rows") as arrays:
        assert arrays.files == ["test|loss"]
        assert arrays["test|loss"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path, exists):
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "target", tmp_path / "link"
    link.symlink_to(target)
    if exists:
        target.mkdir()
        (target / "x").write_text("old")
    with atomic_folder(link) as new:
        (new / "x").write_text("new")
    assert link.is_symlink()
    assert (target / "x").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]
    assert os.listdir(tmp_path / "disk") == ["target"]


def test_what_a_folder_may_lose_is_said_by_name(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    for name in ("mine", "theirs"):
        (target / name).write_text("old")
    with (
        pytest.raises(LopsidedError, match="holds theirs, which would be lost"),
        atomic_folder(target, replaces=["mine"]),
    ):
        pass
    assert sorted(os.listdir(target)) == ["mine", "theirs"]
    (target / "theirs").unlink()
    with atomic_folder(target, replaces=["mine"]) as new:
        (new / "x").write_text("new")
    assert os.listdir(target) == ["x"]
