"""Where a link of a page leads on the site.

A page under `docs/` links to files of the repository by relative paths, which a code host follows. On the site the
pages of `docs/` are at the root, other text files have a page under `source/`, and data are offered for download from
`files/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from lopsided import LopsidedError

REPOSITORY = Path(__file__).parents[1]
# Pages outside of `docs/`, and where the site has them.
AT_ROOT = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
# Data, which a browser would show as a wall of text.
DOWNLOADED = (".json", ".jsonl", ".csv", ".npz")
IMAGES = (".svg", ".png")
# The target of an inline link or image; a code block is left out before.
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
FENCE = re.compile(r"^ {0,3}(```+|~~~+)")


def site_address(path: PurePosixPath) -> str:
    """Return the file of the source tree that shows a file or folder of the repository.

    Args:
        path: relative to the repository.

    Example:
        >>> [site_address(PurePosixPath(p)) for p in ("docs/lab.md", "src/lopsided/methods.py", "docs/advise.json")]
        ['lab.md', 'source/src/lopsided/methods.py.md', 'files/docs/advise.json']
    """
    name = path.as_posix()
    if name in AT_ROOT:
        return AT_ROOT[name]
    if path.parts[:1] == ("docs",) and path.suffix in (".md", *IMAGES):
        return PurePosixPath(*path.parts[1:]).as_posix()
    if path.parts[:1] == ("docs",) and any((REPOSITORY / path).glob("*.md")):
        return PurePosixPath(*path.parts[1:], "index.md").as_posix()
    if (REPOSITORY / path).is_dir():
        return f"source/{name}/index.md"
    return f"files/{name}" if path.suffix in DOWNLOADED else f"source/{name}.md"


def with_site_links(text: str, page: PurePosixPath, found: Callable[[PurePosixPath], None]) -> str:
    """Return a page's text with links as the site needs them.

    Args:
        text: Markdown.
        page: the page's path in the repository.
        found: is told every file or folder that a link leads to.

    Raises:
        LopsidedError: for a link to a file that the repository does not have.
    """
    here = PurePosixPath(site_address(page)).parent

    def replaced(match: re.Match[str]) -> str:
        path, mark, anchor = match[0].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        target = PurePosixPath(os.path.normpath(page.parent / path))
        if target.parts[:1] == ("..",) or not (REPOSITORY / target).exists():
            raise LopsidedError(f"{page} links to {match[0]!r}, which is not in the repository; correct the link")
        found(target)
        return PurePosixPath(os.path.relpath(site_address(target), here)).as_posix() + mark + anchor

    return "\n".join(LINK.sub(replaced, line) if is_prose else line for line, is_prose in _lines(text))


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it stands outside of fenced code."""
    fence = ""
    for line in text.split("\n"):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
            yield line, False
        elif mark and line.strip() == fence:
            fence = ""
            yield line, False
        else:
            yield line, not fence
