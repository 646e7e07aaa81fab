"""The process that runs are forked from, and the runs that they are compared with."""

import shutil
import subprocess
import time
from typing import Any

import pytest

from tests.faults.interruptions import Nursery
from tests.faults.runs import METHODS, OPTIONS, Undisturbed


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory):
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def undisturbed(nursery, tmp_path_factory, bert, words):
    """Makes each undisturbed run once a session."""
    made: dict[tuple[str, bool], Undisturbed] = {}

    def make(method: str, *, plain: bool = False) -> Undisturbed:
        if (method, plain) not in made:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            settings: dict[str, Any] = {"plain": plain, "method": method}
            if not plain:
                settings |= {**OPTIONS, **METHODS[method], "model": bert, "task": words}
            started = time.monotonic()
            assert nursery.run(folder, **settings) == 0
            made[method, plain] = Undisturbed(folder, settings, nursery.happened(), time.monotonic() - started)
        return made[method, plain]

    return make


@pytest.fixture(scope="session")
def namespaces() -> None:
    command = shutil.which("unshare")
    if command is None or subprocess.run([command, "--user", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this system lets no process have disks of its own")


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread):
    """Tiny matrices, in every test of this room."""
