"""The test files of the installed PEFT, from its source distribution; wheels do not hold them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import peft

CACHE = Path(__file__).parents[3] / ".venv" / "peft-suite"


def sources(cache: Path = CACHE) -> Path:
    """Return the folder whose `tests` holds PEFT's test files; pip fetches them once per version.

    Args:
        cache: where the archive is unpacked.

    Raises:
        subprocess.CalledProcessError: if pip cannot fetch the archive.
    """
    name = f"peft-{peft.__version__}"
    target = cache / name
    if (target / "tests" / "__init__.py").is_file():
        return target
    shutil.rmtree(target, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*download, "--dest", str(cache), f"peft=={peft.__version__}"], check=True)
    with tarfile.open(cache / f"{name}.tar.gz") as archive:
        archive.extractall(cache, filter="data")
    # Their modules import each other relatively; the archive leaves out what makes the folder a package.
    (target / "tests" / "__init__.py").touch()
    return target
