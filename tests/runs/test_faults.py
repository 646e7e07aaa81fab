"""What goes wrong on real machines: a folder in use, a full disk, files that are half there."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from transformers import TrainerCallback

import lopsided.files.atomic
from lopsided import LopsidedError
from lopsided.files.atomic import DiskErrors, atomic_folder, write_json
from lopsided.runs import read_run, train
from lopsided.runs.directory import in_use, read_predictions, write_predictions
from lopsided.runs.prepare import save_trained
from lopsided.runs.reload import reload
from tests.tiny_runs import tiny_config

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
# What safetensors 0.8 raises on a full disk.
RUST_FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


class Ruin(TrainerCallback):
    """After step 2, a learning rate that no model survives."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= 2:
            for group in kwargs["optimizer"].param_groups:
                group["lr"] = 10.0


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- a folder in use -----------------------------------------------------------------------------------------


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path, bert, words):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla", steps=2)
    config.out.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(config.out / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LopsidedError, match=r"run is in use by another run; expected a free folder; wait"):
            train(config)
        assert not (config.out / "run.json").exists()
        # A process that is killed frees the folder, too.
        holder.kill()
    assert train(config).status == "finished"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(LopsidedError, match="run is a file; expected a folder"), in_use(tmp_path / "run"):
        pass


# -- a full disk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [FULL, RUST_FULL])
def test_a_full_disk_leaves_the_saved_adapter_whole(run_once, tmp_path, monkeypatch, bert, words, error):
    folder, record = run_once(model=bert, task=words, method="c3la")
    copy = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    before = content(copy)

    def fail(tensors, path, *args, **kwargs):
        Path(path).write_bytes(b"half")
        raise error

    model, method = reload(folder), tiny_config(folder, method="c3la").resolve_method()
    monkeypatch.setattr("peft.peft_model.safe_save_file", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_trained(model, method, copy)
    assert caught.value.errno == errno.ENOSPC
    assert content(copy) == before
    assert os.listdir(tmp_path) == ["adapter"]
    monkeypatch.undo()
    assert save_trained(model, method, copy) == record["adapter_bytes"]


@pytest.mark.parametrize("moved", [False, True])
def test_a_disk_that_fills_at_the_end_costs_nothing(tmp_path, monkeypatch, bert, words, moved):
    # The best checkpoint is not the last one, and has to be found again.
    options = {"model": bert, "task": words, "method": "c3la", "steps": 6, "evaluations": 3, "links": 2}
    undisturbed = train(tiny_config(tmp_path / "undisturbed", **options), callbacks=[Ruin()]).to_json()
    assert undisturbed["best_step"] == 2
    config = tiny_config(tmp_path / "run", **options)

    def fail(*args):
        raise RUST_FULL

    with monkeypatch.context() as patch:
        patch.setattr("lopsided.runs.session.save_trained", fail)
        with pytest.raises(OSError, match="No space left"):
            train(config, callbacks=[Ruin()])
    run = read_run(config.out)
    assert (run.status, "No space left" in run.error) == ("failed", True)
    if moved:
        shutil.move(config.out, tmp_path / "moved")
        config = tiny_config(tmp_path / "moved", **options)
    resumed = train(config, resume=True).to_json()
    for field in ("metrics", "best_step", "chain"):
        assert resumed[field] == undisturbed[field]
    assert resumed["timings"]["steps"] == undisturbed["timings"]["steps"] == 3
    # Seven steps of six would be one too many.
    assert max(entry["step"] for entry in resumed["history"]) == 6


@pytest.mark.parametrize("error", [RUST_FULL, RuntimeError("[enforce fail at inline_container.cc:672] . unexpected")])
def test_every_librarys_full_disk_is_pythons(tmp_path, monkeypatch, error):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(OSError, match="No space left on device") as caught, DiskErrors(tmp_path):
        raise error
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while deserializing header: invalid JSON"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        # With room on the disk, torch.save failed for another reason.
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected"),
        KeyError("x"),
    ],
)
def test_other_errors_keep_their_names(tmp_path, monkeypatch, error):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 0, 10**9))
    with pytest.raises(type(error)) as caught, DiskErrors(tmp_path):
        raise error
    assert caught.value is error


# -- files that are whole or not there -----------------------------------------------------------------------


def written(path: Path, text: str) -> None:
    with atomic_folder(path) as folder:
        (folder / "file").write_text(text)


def test_a_folder_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "adapter"
    written(path, "old")

    def fail_halfway():
        with atomic_folder(path) as folder:
            (folder / "file").write_text("new")
            assert content(path) == {"file": b"old"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert content(path) == {"file": b"old"}
    written(path, "new")
    assert content(path) == {"file": b"new"}
    assert os.listdir(path.parent) == ["adapter"]


def test_the_old_folder_comes_back_when_the_last_rename_fails(tmp_path, monkeypatch):
    # As on a system that can't let two folders change places in one step.
    monkeypatch.setattr(lopsided.files.atomic, "_exchange", lambda new, path: False)
    path = tmp_path / "adapter"
    written(path, "old")
    rename = os.rename

    def second_fails(source, target):
        if Path(target) == path and (Path(source) / "file").read_text() == "new":
            raise FULL
        rename(source, target)

    monkeypatch.setattr(lopsided.files.atomic.os, "rename", second_fails)
    with pytest.raises(OSError, match="No space left"):
        written(path, "new")
    assert content(path) == {"file": b"old"}
    assert os.listdir(tmp_path) == ["adapter"]


def test_a_folder_with_other_things_in_it_is_not_replaced(tmp_path):
    written(tmp_path / "thesis", "old")
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(LopsidedError, match=r"thesis holds chapter\.tex, which would be lost; .*choose another"):
        written(tmp_path / "thesis", "new")
    assert content(tmp_path / "thesis") == {"file": b"old", "chapter.tex": b"years of work"}
    (tmp_path / "note").write_text("x")
    with pytest.raises(LopsidedError, match="note is a file; expected a folder"):
        written(tmp_path / "note", "new")
    assert sorted(os.listdir(tmp_path)) == ["note", "thesis"]


def test_json_is_the_old_one_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "run.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": 2, "b": object()})
    with monkeypatch.context() as patch:

        def fail(source, target):
            raise FULL

        patch.setattr(lopsided.files.atomic.os, "replace", fail)
        with pytest.raises(OSError, match="No space left"):
            write_json(path, {"a": 3})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(path.parent) == ["run.json"]


def test_rows_come_back_by_split(tmp_path):
    rows = {
        "test": {"prediction": np.array([1, 0]), "loss": np.array([0.5, 0.25])},
        "vader/nyt": {"loss": np.array([2.0])},
    }
    write_predictions(tmp_path, rows)
    again = read_predictions(tmp_path)
    assert {split: {name: list(array) for name, array in columns.items()} for split, columns in again.items()} == {
        "test": {"prediction": [1, 0], "loss": [0.5, 0.25]},
        "vader/nyt": {"loss": [2.0]},
    }
    assert os.listdir(tmp_path) == ["predictions.npz"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1,', r"run\.json:1: not JSON \(.*\); delete the folder"),
        ("[]", r"run\.json is not a run of schema 1; choose another folder"),
        ('{"schema": 99}', r"run\.json is not a run of schema 1"),
    ],
)
def test_a_record_of_another_kind_is_refused(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(LopsidedError, match=message):
        read_run(tmp_path)
    assert read_run(tmp_path / "nowhere") is None


# -- errors of a disk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (RUST_FULL, errno.ENOSPC),
        (SafetensorError('I/O error: Read-only file system (os error 30) at path "/x"'), errno.EROFS),
        # As tokenizers raises it.
        (Exception("Permission denied (os error 13)"), errno.EACCES),
        (
            RuntimeError("[enforce fail at inline_container.cc:747] . open file failed with strerror: No such device"),
            19,
        ),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), errno.ENOSPC),
        (RuntimeError("basic_ios::clear: iostream error"), errno.ENOSPC),
    ],
)
def test_a_runs_disk_errors_have_the_systems_number(tmp_path, monkeypatch, error, number):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(OSError, match=os.strerror(number)) as caught, DiskErrors(tmp_path):
        raise error
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "as it came"),
        LopsidedError("x (os error 28)"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        # With room on the disk, it failed for another reason.
        RuntimeError("basic_ios::clear: iostream error"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_of_a_run_pass(tmp_path, monkeypatch, error):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 0, 10**9))
    with pytest.raises(type(error)) as caught, DiskErrors(tmp_path):
        raise error
    assert caught.value is error
