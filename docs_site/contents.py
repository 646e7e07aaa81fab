"""What stands where: the front page with the site's table of contents, and a page per folder of pages.

A page that no part names is found all the same, in the last part; a folder's page lists whatever the folder holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from docs_site.existing_pages import written_page
from docs_site.page_parts import GENERATED
from docs_site.staged_tree import StagedTree

HIDDEN = "```{{toctree}}\n:hidden:\n{caption}\n{entries}\n```"
# The parts of the site, with the addresses of their pages; an address that nothing put is left out.
PARTS: Mapping[str, Sequence[str]] = {
    "Using it": (
        *("install", "recipes/index", "use", "compare", "data", "layers", "merging", "export", "studies", "federated"),
        "performance",
    ),
    "Understanding it": ("concepts/index", "theory", "lab", "studies/index", "findings", "advise"),
    "Reference": ("methods/index", "commands/index", "api/index"),
    "The project": ("contributing", "architecture", "decisions/index", "log", "changelog", "upgrade", "security"),
}


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of written pages that gets a page of its own.

    Args:
        title: of that page.
        about: what stands first.
        sentences: whether the list of its pages has each one's first sentence, which says what the page is for.
    """

    title: str
    about: str
    sentences: bool = False


FOLDERS: Mapping[str, Folder] = {
    "recipes": Folder(
        title="Recipes",
        about="By goal; each page is a complete example, which a test runs as it stands.",
        sentences=True,
    ),
    "concepts": Folder(
        title="Concepts",
        about="Short pages with pictures: what the papers found, and what it means.",
        sentences=True,
    ),
    "studies": Folder(
        title="Results of studies",
        about="What `lopsided bench` found, next to ranges that were stated beforehand ([how](../studies.md)).",
    ),
    "decisions": Folder(title="Decisions", about="Why things are as they are, in the order in which it was decided."),
}


def put_contents(tree: StagedTree) -> None:
    """Put the folders' pages and the front page into a tree, which holds all other pages by then."""
    for name, folder in FOLDERS.items():
        pages = [page for page in _pages(tree) if page.parent.name == name and page.stem != "index"]
        if pages:
            tree.put(f"{name}/index.md", folder_page(tree, folder, pages))
    tree.put("index.md", front_page(tree))


def folder_page(tree: StagedTree, folder: Folder, pages: Sequence[PurePosixPath]) -> str:
    """Return the page of a folder: a line per page."""
    lines = [f"- [{_numbered(_title(tree, page), page)}]({page.name})" for page in pages]
    if folder.sentences:
        lines = [f"{line}: {_first_sentence(tree, page)}" for line, page in zip(lines, pages)]
    hidden = HIDDEN.format(caption="", entries="\n".join(page.stem for page in pages))
    return "\n\n".join([f"# {folder.title}", GENERATED, folder.about, "\n".join(lines), hidden]) + "\n"


def front_page(tree: StagedTree) -> str:
    """Return the front page: the README, the site's parts, and the same as the menu at the side."""
    parts = {caption: [page for page in pages if f"{page}.md" in tree] for caption, pages in PARTS.items()}
    named = {page for pages in parts.values() for page in pages}
    rest = [page.stem for page in _pages(tree) if page.parent == PurePosixPath() and page.stem not in named]
    *_, last = parts
    parts[last] += rest
    lines, menus = [], []
    for caption, pages in parts.items():
        links = [f"[{_title(tree, PurePosixPath(f'{page}.md'))}]({page}.md)" for page in pages]
        lines.append(f"**{caption}:** {' · '.join(links)}")
        menus.append(HIDDEN.format(caption=f":caption: {caption}\n", entries="\n".join(pages)))
    return "\n\n".join([written_page(tree, PurePosixPath("README.md")), "## Contents", *lines, *menus]) + "\n"


def _pages(tree: StagedTree) -> list[PurePosixPath]:
    """Return the pages that stand at the root or in one folder below it, in the order of their names."""
    paths = sorted(PurePosixPath(path.relative_to(tree.root).as_posix()) for path in tree.files)
    return [path for path in paths if path.suffix == ".md" and len(path.parts) <= 2]


def _title(tree: StagedTree, page: PurePosixPath) -> str:
    found = re.search(r"^# (.+)$", (tree.root / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1].strip() if found else page.stem


def _numbered(title: str, page: PurePosixPath) -> str:
    """Return a title after the number that its file has, which some titles repeat."""
    number = re.match(r"\d{4}", page.stem)
    return f"{number[0]}: {re.sub(r'^[0-9]{4}:? ', '', title)}" if number else title


def _first_sentence(tree: StagedTree, page: PurePosixPath) -> str:
    """Return the first sentence of a page's first paragraph of prose, without its links."""
    paragraphs = (tree.root / page).read_text(encoding="utf-8").split("\n\n")
    prose = next((text for text in paragraphs[1:] if re.match(r"[\w`*\"(]", text)), "")
    words = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(prose.split()))
    return re.split(r"(?<=[.!?]) ", words, maxsplit=1)[0].rstrip(":")
