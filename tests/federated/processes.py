"""Flower's programs as processes of a test, all of which end with it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

# A busy machine needs half a minute for each message, since every one is answered by a process of its own.
SECONDS = 420.0
# Even if the tests themselves are killed, no program runs longer.
LONGEST = "1800"
PROGRAMS = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Processes:
    """Programs in a folder, each with the processes that it starts; `end_all` ends every one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, {}
        quiet = {
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "FLWR_HOME": str(folder / "flwr"),
            "OMP_NUM_THREADS": "1",
        }
        self.environment = {**os.environ, **quiet, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
        (folder / "flwr").mkdir()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a program, whose output is appended to a log of that name."""
        with open(self.folder / f"{name}.log", "a") as log:
            self.running[name] = subprocess.Popen(
                [self._found("timeout"), "--kill-after=10", LONGEST, self._found(command[0]), *command[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )

    def run(self, command: Sequence[str], *, seconds: float = 240.0) -> str:
        """Run a program to its end, which has to be a good one, and return what it said."""
        name = f"{Path(command[0]).name}-run"
        self.start(name, command)
        self.wait(f"{command[0]} ends", lambda: self.running[name].poll() is not None, seconds)
        assert self.running.pop(name).returncode == 0
        return self.log(name)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.running.pop(name)
        # Its group holds what it has started, and is gone where all of it has ended.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)

    def end_all(self) -> None:
        for name in list(self.running):
            self.kill(name, signal.SIGTERM)

    def wait(self, what: str, happened: Callable[[], bool], seconds: float = SECONDS) -> None:
        """Wait until something has happened, and fail if a program fails before, or after some seconds."""
        end = time.monotonic() + seconds
        while not happened():
            failed = [name for name, process in self.running.items() if process.poll() not in (None, 0)]
            logs = {path.stem: path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log")}
            assert not failed, f"{failed} failed before {what}: {logs}"
            assert time.monotonic() < end, f"{what} did not happen: {logs}"
            time.sleep(0.2)

    def ended_with(self, name: str, seconds: float = 240.0) -> int:
        """Return the exit status of a program that is to end by itself."""
        return self.running.pop(name).wait(seconds)

    def _found(self, program: str) -> str:
        path = shutil.which(program, path=self.environment["PATH"])
        if path is None:
            pytest.skip(f"{program} is not installed")
        return path
