"""The pages that stand under `docs/` and at the root of the repository, as parts of the site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from docs_site.link_targets import AT_ROOT, IMAGES, REPOSITORY, site_address, with_site_links
from docs_site.source_pages import put_source
from docs_site.staged_tree import StagedTree


def pages() -> list[PurePosixPath]:
    """Return the paths of all written pages of the site but the README, relative to the repository."""
    docs = sorted((REPOSITORY / "docs").rglob("*.md"))
    # The README is a part of the front page.
    return [PurePosixPath(name) for name in AT_ROOT if name != "README.md"] + [_relative(path) for path in docs]


def put_existing(tree: StagedTree) -> None:
    """Put the written pages into a tree, with their images and the sources that they link to.

    Raises:
        LopsidedError: for a link that leads nowhere.
    """
    for page in pages():
        tree.put(site_address(page), written_page(tree, page))
    for path in images():
        tree.put(site_address(path), (REPOSITORY / path).read_bytes())


def written_page(tree: StagedTree, page: PurePosixPath) -> str:
    """Return a written page as the site shows it, and put the sources that it links to into a tree.

    Args:
        page: its path in the repository.

    Raises:
        LopsidedError: for a link that leads nowhere.
    """
    linked: set[PurePosixPath] = set()
    text = with_site_links((REPOSITORY / page).read_text(encoding="utf-8"), page, linked.add)
    for path in sorted(linked):
        put_source(tree, path)
    return text


def images() -> Iterator[PurePosixPath]:
    """Yield the paths of the images under `docs/`."""
    for path in sorted((REPOSITORY / "docs").rglob("*")):
        if path.suffix in IMAGES:
            yield _relative(path)


def _relative(path: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(REPOSITORY).as_posix())
