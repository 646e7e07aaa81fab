"""Saves that fail: whatever call the system refuses, the last good adapter is whole, and the next save works."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import resource
import tempfile

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import lopsided
import lopsided.files.atomic
from lopsided.runs.prepare import save_trained
from lopsided.verify import verify
from tests import tiny
from tests.diagonal import diagonal

# What saves call to change files; each call may be the one that fails. Those of safetensors are in Rust: see below.
CALLS = [
    (os, "mkdir"),
    (os, "makedirs"),
    (os, "rename"),
    (os, "replace"),
    (os, "chmod"),
    (os, "open"),
    (os, "fdopen"),
    (io, "open"),
    (builtins, "open"),
    (tempfile, "mkstemp"),
    (tempfile, "mkdtemp"),
    (lopsided.files.atomic, "_exchange"),
]


@contextlib.contextmanager
def failing(monkeypatch, n: int, number: int, *, from_then_on: bool):
    """The n-th of these calls that would write fails, or all from the n-th; yields a counter."""
    count = [0]

    def refuse(owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            if name == "open" and not _writes(owner, args, kwargs):
                return original(*args, **kwargs)
            count[0] += 1
            if count[0] == n or (from_then_on and count[0] > n):
                raise OSError(number, os.strerror(number), str(args[0]) if args else None)
            return original(*args, **kwargs)

        patch.setattr(owner, name, call)

    with monkeypatch.context() as patch:
        for owner, name in CALLS:
            refuse(owner, name)
        yield count


def _writes(owner, args, kwargs) -> bool:
    if owner is os:
        return bool(args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
    return any(letter in mode for letter in "wax+")


class Case:
    """One way to save: how a model is written to a folder, and read back as a function."""

    def __init__(self, write, read) -> None:
        self.write, self.read = write, read


def read_adapter(folder):
    verify(folder)
    return tiny.logits(PeftModel.from_pretrained(tiny.bert(), str(folder)))


CASES = {
    "save_pretrained": Case(lambda model, folder: model.save_pretrained(str(folder)), read_adapter),
    "run": Case(lambda model, folder: save_trained(model, lopsided.METHODS["c3la"], folder), read_adapter),
    "to_lora": Case(
        lopsided.to_lora, lambda folder: tiny.logits(PeftModel.from_pretrained(tiny.bert(), str(folder)).eval())
    ),
}


@pytest.fixture(scope="module")
def models():
    """An adapter at link 0, and the same one a link later."""
    # Patterns that match nothing make the configuration longer than the tensors, so that each file is cut off.
    options = {"target_modules": ["query"], "links": 3, "alpha_pattern": {f"nowhere{i}": 1.0 for i in range(400)}}
    older = lopsided.adapt(tiny.bert(), "c3la", r=2, **options)
    tiny.train_a_little(older)
    newer = lopsided.adapt(tiny.bert(), "c3la", r=2, **options)
    optimizer = tiny.train_a_little(newer)
    lopsided.advance_chain(newer, optimizer)
    tiny.run_steps(newer, optimizer, 2)
    return older.eval(), newer.eval()


def close(a, b) -> bool:
    # An exported adapter adds the links in another order.
    return torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("name", "error"), diagonal(CASES, [(errno.ENOSPC, True), (errno.EACCES, False)], share=2))
def test_whichever_call_fails_the_last_good_adapter_is_whole(name, error, models, tmp_path, monkeypatch):
    number, from_then_on = error
    (older, newer), case, folder = models, CASES[name], tmp_path / "adapter"
    old, new = tiny.logits(older), tiny.logits(newer)
    assert not close(old, new)
    n, failed = 0, True
    while failed:
        n += 1
        # What an earlier failure has left does not stand in the way.
        case.write(older, folder)
        with failing(monkeypatch, n, number, from_then_on=from_then_on) as count:
            with contextlib.suppress(OSError):
                case.write(newer, folder)
            failed = count[0] >= n
        found = case.read(folder)
        assert close(found, new) or (failed and close(found, old)), f"call {n}"
    assert close(found, new)
    assert n > 3
    assert os.listdir(tmp_path) == ["adapter"]


@pytest.mark.parametrize("name", CASES)
def test_wherever_a_file_is_cut_off_the_last_good_adapter_is_whole(name, models, tmp_path, monkeypatch):
    """The system ends every write, those of safetensors too, at a length: as a full disk or a quota does."""
    (older, newer), case, folder = models, CASES[name], tmp_path / "adapter"
    old, new = tiny.logits(older), tiny.logits(newer)
    case.write(newer, tmp_path / "whole")
    sizes = sorted(file.stat().st_size for file in (tmp_path / "whole").iterdir())
    largest = sizes[-1]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    case.write(older, folder)
    outcomes = set()
    for length in (0, 1, 100, 700, 1500, *sizes[:-1], largest // 2, largest - 1, largest):
        resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
        try:
            case.write(newer, folder)
            written = True
        except (OSError, SafetensorError):
            written = False
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        outcomes.add(written)
        found = case.read(folder)
        assert close(found, new) if written else close(found, old) or close(found, new)
    assert outcomes == {True, False}


@pytest.mark.parametrize("name", CASES)
def test_a_file_in_the_place_of_the_folder_is_left_alone(name, models, tmp_path):
    (tmp_path / "adapter").write_text("a letter")
    with pytest.raises((ValueError, OSError), match="adapter"):
        CASES[name].write(models[1], tmp_path / "adapter")
    assert (tmp_path / "adapter").read_text() == "a letter"


def test_safetensors_replaces_a_file_and_never_writes_over_it(tmp_path):
    """A save of tensors is atomic because safetensors writes beside them first, since its version 0.8."""
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(4)}, path)
    mapped = load_file(path)
    before = path.stat().st_ino
    save_file({"a": torch.ones(4)}, path)
    assert path.stat().st_ino != before
    assert torch.equal(mapped["a"], torch.zeros(4))
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_two_folders_change_places_in_one_step_or_say_that_they_cannot(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if lopsided.files.atomic._exchange(tmp_path / "a", tmp_path / "b"):
        assert (tmp_path / "a" / "b").exists()
        assert (tmp_path / "b" / "a").exists()
    else:
        assert (tmp_path / "a" / "a").exists()
    with pytest.raises(OSError, match="No such file") as caught:
        lopsided.files.atomic._exchange(tmp_path / "a", tmp_path / "missing")
    assert caught.value.errno == errno.ENOENT
