"""llama.cpp's converters, from the source distribution of `llama-cpp-python`, which carries llama.cpp."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".venv" / "llama-cpp"
VERSION = "0.3.36"
# All that the converters import; the rest is C++.
PARTS = ("convert_lora_to_gguf.py", "convert_hf_to_gguf.py", "conversion/", "gguf-py/")


def sources(cache: Path = CACHE) -> Path:
    """Return the folder with the converters; pip fetches them once.

    Args:
        cache: where the archive is unpacked.

    Raises:
        subprocess.CalledProcessError: if pip cannot fetch the archive.
    """
    inside = f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
    target = cache / inside
    if (target / PARTS[0]).is_file():
        return target
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*download, "--dest", str(cache), f"llama-cpp-python=={VERSION}"], check=True)
    archive = cache / f"llama_cpp_python-{VERSION}.tar.gz"
    wanted = tuple(f"{inside}/{part}" for part in PARTS)
    with tarfile.open(archive) as files:
        files.extractall(cache, [each for each in files if each.name.startswith(wanted)], filter="data")
    archive.unlink()
    return target
