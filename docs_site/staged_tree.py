"""A folder that holds the files that were put into it, and no others.

Sphinx reads a page again when its file is newer, so a file is written only where its content has changed.
"""

from __future__ import annotations

from pathlib import Path

from lopsided import LopsidedError


class StagedTree:
    """The source tree of one build.

    Args:
        root: the folder; made if it is not there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: set[Path] = set()
        root.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, content: str | bytes) -> None:
        """Write one file, unless it is there with this content.

        Args:
            name: its path below the root, with slashes.
            content: text, which is written as UTF-8, or bytes.

        Raises:
            LopsidedError: if the file was put before: two pages would take one address.
        """
        path = self.root / name
        if path in self.files:
            raise LopsidedError(f"two pages of the site have the address {name!r}; expected one; rename one of them")
        self.files.add(path)
        data = content.encode() if isinstance(content, str) else content
        if path.is_file() and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def __contains__(self, name: str) -> bool:
        return self.root / name in self.files

    def remove_others(self) -> None:
        """Remove the files of an earlier build that nothing put this time."""
        for path in self.root.rglob("*"):
            if path.is_file() and path not in self.files:
                path.unlink()
