"""Pages that show the source files and folders that other pages link to.

They are left out of the search, which would find every identifier there first.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from docs_site.link_targets import REPOSITORY, site_address
from docs_site.staged_tree import StagedTree

LANGUAGES = {".py": "python", ".toml": "toml", ".cff": "yaml", ".sh": "bash"}
UNSEARCHED = "---\norphan: true\nnosearch: true\n---\n\n"


def put_source(tree: StagedTree, path: PurePosixPath) -> None:
    """Put what a link leads to into a tree, unless it is there: a page with the source, a list, or the file itself."""
    address = site_address(path)
    if address in tree or not address.startswith(("source/", "files/")):
        return
    whole = REPOSITORY / path
    if whole.is_dir():
        tree.put(address, _listing(tree, path))
    elif address.startswith("files/"):
        tree.put(address, whole.read_bytes())
    else:
        text = whole.read_text(encoding="utf-8")
        # Longer than any run of backticks inside.
        fence = "`" * 6
        language = LANGUAGES.get(path.suffix, "text")
        tree.put(address, f"{UNSEARCHED}# {path.name}\n\n`{path}`\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n")


def _listing(tree: StagedTree, folder: PurePosixPath) -> str:
    """Return a page that lists a folder's files, and put these into the tree."""
    names = sorted(path.name for path in (REPOSITORY / folder).iterdir() if path.is_file())
    shown = [name for name in names if not name.startswith((".", "__"))]
    for name in shown:
        put_source(tree, folder / name)
    # From source/FOLDER/index.md, two places below the root at least.
    up = "../" * (len(folder.parts) + 1)
    lines = [f"- [{name}]({up}{site_address(folder / name)})" for name in shown]
    return f"{UNSEARCHED}# {folder}\n\n" + "\n".join(lines) + "\n"
