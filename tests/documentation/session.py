"""A reader who types what a page shows, block by block, in an empty folder."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from lopsided import METHODS
from lopsided.baselines import BASELINES
from lopsided.diagnose.sections import SECTIONS
from lopsided.models.registry import MODELS
from lopsided.study.columns import COLUMNS
from lopsided.tasks import TASKS
from lopsided_cli.main import main
from tests.documentation.blocks import ROOT, Block

# What a page may add an entry to.
TABLES = (METHODS, BASELINES, SECTIONS, MODELS, COLUMNS, TASKS)
# `make setup` puts the quantizers there. PEFT imports them wherever it finds them, so only a page that needs them has a
# shell in which it does.
QUANTIZERS = Path(sys.prefix) / "quantized"
MINUTES = 8
# What only a shell does with a line.
SHELL = re.compile(r"[|&;<>$*~`\\]")


@contextmanager
def restored_tables() -> Iterator[None]:
    """Take entries back that are made inside."""
    before = [(table, dict(table)) for table in TABLES]
    try:
        yield
    finally:
        for table, entries in before:
            table.clear()
            table.update(entries)


def environment(*, quantizers: bool) -> dict[str, str]:
    """A shell's, in which `lopsided` and `python` are those of this checkout."""
    search = [str(ROOT / "src"), os.environ.get("PYTHONPATH", ""), *([str(QUANTIZERS)] if quantizers else [])]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(search), "PATH": path, "OMP_NUM_THREADS": "1"}


def matches(shown: str, printed: str) -> bool:
    """Whether this was printed: `…` stands for any text, alone in a line for any lines; a space is any space."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    pattern = re.sub("^…\n", "...", shown, flags=re.M).replace("…", "...")
    return doctest.OutputChecker().check_output(pattern, printed, flags)


class Session:
    """One page's blocks, run in their order.

    Args:
        folder: empty, and the current one.
        module: in which Python's blocks run; a class that is defined in it is found by its name.
        printed: returns what this process has printed since it was last called.
    """

    def __init__(self, folder: Path, module: ModuleType, printed: Callable[[], str]) -> None:
        self.folder, self.module, self.printed = folder, module, printed
        self.last = ""
        self.quantizers = False

    def run(self, block: Block) -> None:
        """Run a block, save it, or hold it against what was printed last."""
        if block.given:
            self._python(block.given, f"what is given at {block.place}")
        if block.file:
            self.quantizers |= "BitsAndBytesConfig" in block.code
            (self.folder / block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "text":
            assert matches(block.code, self.last), f"{block.place} shows\n{block.code}\nand what came is\n{self.last}"
        else:
            self.printed()
            {"python": self._python, "bash": self._shell}[block.language](block.code, block.place)
            self.last = self.printed()

    def _lopsided(self, arguments: list[str], place: str) -> None:
        # Nothing of a shell is in it, and the start of a process takes longer than most commands on tiny models.
        argv, sys.argv = sys.argv, ["lopsided", *arguments]
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            sys.argv = argv
        assert not ended.value.code, f"{place}: lopsided {' '.join(arguments)} ended with {ended.value.code}"

    def _python(self, code: str, place: str) -> None:
        exec(compile(code, place, "exec"), vars(self.module))

    def _shell(self, code: str, place: str) -> None:
        lines = [line.partition(" #")[0] for line in code.replace("\\\n", " ").splitlines() if line]
        if all(line.startswith("lopsided ") and not SHELL.search(line) for line in lines):
            for line in lines:
                self._lopsided(shlex.split(line)[1:], place)
            return
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=self.folder,
            env=environment(quantizers=self.quantizers),
            capture_output=True,
            text=True,
            check=False,
            timeout=60 * MINUTES,
        )
        assert done.returncode == 0, f"{place}: {done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        print(done.stdout)
