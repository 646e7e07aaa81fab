"""However a run ends, its record says how."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from transformers import TrainerCallback

from lopsided import LopsidedError
from lopsided.diagnose import DiagnoseConfig, diagnose_runs
from lopsided.runs import finished_run, read_run, train
from lopsided.runs.directory import is_held, overwrite_run
from lopsided.runs.ending import terminable
from lopsided.study import CompareConfig, compare
from tests.tiny_runs import tiny_config


class End(TrainerCallback):
    def __init__(self, error) -> None:
        self.error = error

    def on_step_end(self, args, state, control, **kwargs):
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), "interrupted (Ctrl-C)"),
        (SystemExit(3), "the process exited with status 3"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "CUDA out of memory. Tried to allocate"),
        (MemoryError(), "MemoryError"),
        (KeyError("labels"), "KeyError: 'labels'"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "[Errno 28] No space left on device"),
        (LopsidedError("expected, received, fix"), "expected, received, fix"),
        (BaseException(), "BaseException"),
    ],
)
def test_the_record_of_a_run_that_fails_says_why(tmp_path, bert, words, error, reason):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla", steps=4, evaluations=1)
    with pytest.raises(type(error)):
        train(config, callbacks=[End(error)])
    run = read_run(config.out)
    assert (run.status, run.error) == ("failed", reason)
    assert run.settings == config.to_json()
    assert not is_held(config.out)
    if isinstance(error, KeyError):
        # The folder is free: nothing was saved that could be lost.
        assert train(config).status == "finished"


def test_a_full_disk_leaves_room_for_the_reason(tmp_path, monkeypatch, bert, words):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla", steps=4, evaluations=1)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*args, **kwargs):
        raise full

    class Fill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            # From now on no new file can be made.
            monkeypatch.setattr("lopsided.runs.ending.write_run", fail)
            raise full

    with pytest.raises(OSError, match="No space left"):
        train(config, callbacks=[Fill()])
    run = read_run(config.out)
    assert (run.status, run.error) == ("failed", "[Errno 28] No space left on device")


def test_a_record_is_written_over_a_longer_and_a_shorter_one(tmp_path):
    for old in ("{}", json.dumps({"x": "y" * 1000})):
        (tmp_path / "run.json").write_text(old)
        overwrite_run(tmp_path, {"schema": 1, "status": "failed"})
        assert json.loads((tmp_path / "run.json").read_text()) == {"schema": 1, "status": "failed"}
        assert len((tmp_path / "run.json").read_text()) >= len(old)


class Signal(TrainerCallback):
    def __init__(self, number: int) -> None:
        self.number = number

    def on_step_end(self, args, state, control, **kwargs):
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "error", "reason"),
    [
        (signal.SIGTERM, SystemExit, "terminated (SIGTERM)"),
        (signal.SIGINT, KeyboardInterrupt, "interrupted (Ctrl-C)"),
    ],
)
def test_a_signal_is_a_reason(tmp_path, bert, words, number, error, reason):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla", steps=4)
    before = signal.getsignal(number)
    with pytest.raises(error) as caught:
        train(config, callbacks=[Signal(number)])
    run = read_run(config.out)
    assert (run.status, run.error) == ("failed", reason)
    assert error is KeyboardInterrupt or caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(number) == before


class Look(TrainerCallback):
    """Reads the record of a run that goes on, and keeps its folder as a killed process would leave it."""

    def __init__(self, folder: Path, copy: Path) -> None:
        self.folder, self.copy = folder, copy

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            assert is_held(self.folder)
            assert read_run(self.folder).status == "running"
            shutil.copytree(self.folder, self.copy)


def test_readers_know_a_run_whose_process_was_killed(tmp_path, bert, words):
    folder = tmp_path / "killed"
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla", steps=4)
    train(config, callbacks=[Look(config.out, folder)])
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    assert (read_run(folder).status, is_held(folder)) == ("cut off", False)
    with pytest.raises(LopsidedError, match="holds a run that is cut off; expected a finished run"):
        finished_run(folder)
    with pytest.raises(LopsidedError, match="got 1 that did not finish, killed among them, which is cut off"):
        diagnose_runs([folder], DiagnoseConfig(only=("generalization",)))
    # Nothing was saved yet, so it begins again.
    config = tiny_config(folder, model=bert, task=words, method="cla", steps=4)
    assert train(config, resume=True).status == "finished"


def test_a_comparison_says_which_run_was_cut_off(tmp_path, bert, words):
    run = tiny_config(tmp_path / "out", model=bert, task=words, method="lora", steps=2, evaluations=1)
    config = CompareConfig(run=run, methods=("head", "cla"))
    with pytest.raises(KeyboardInterrupt):
        compare(config, callbacks=lambda method, seed: [End(KeyboardInterrupt())] if method == "cla" else [])
    assert read_run(config.folder("head", 0)).status == "finished"
    run = read_run(config.folder("cla", 0))
    assert (run.status, run.error) == ("failed", "interrupted (Ctrl-C)")
    assert not compare(config, resume=True).failed


def test_a_handler_of_the_users_own_and_other_threads_are_left_alone():
    def own(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, own)
    try:
        with terminable():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    failures = []

    def enter():
        try:
            with terminable():
                pass
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start(), thread.join()
    assert failures == []
    signal.signal(signal.SIGTERM, before)
