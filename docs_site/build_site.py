"""Stage the pages, let Sphinx build the site, and look at what it built.

python -m docs_site [--out build/site] [--source build/site-source]
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from docs_site.api_pages import put_api
from docs_site.command_pages import put_commands
from docs_site.contents import put_contents
from docs_site.existing_pages import put_existing
from docs_site.link_targets import REPOSITORY
from docs_site.method_pages import put_methods
from docs_site.site_checks import problems
from docs_site.staged_tree import StagedTree
from lopsided import LopsidedError

HERE = Path(__file__).parent
BUILD = REPOSITORY / "build"
MADE_BY_SPHINX = ".buildinfo"


def stage(source: Path) -> StagedTree:
    """Write the source tree of the site, and return it.

    Raises:
        LopsidedError: for a link that leads nowhere, or two pages of one address.
    """
    tree = StagedTree(source)
    put_existing(tree)
    put_methods(tree)
    put_commands(tree)
    put_api(tree)
    put_contents(tree)
    tree.remove_others()
    return tree


def clear(site: Path) -> None:
    """Remove an earlier site: Sphinx would leave pages that are gone, and sources that it takes for unchanged.

    Raises:
        LopsidedError: for a folder that holds something else.
    """
    if site.is_dir() and any(site.iterdir()):
        if not (site / MADE_BY_SPHINX).is_file():
            raise LopsidedError(
                f"--out must be empty or an earlier site, got {site} with other files; choose another folder"
            )
        shutil.rmtree(site)


def main(arguments: list[str] | None = None) -> int:
    """Build the site; a warning is an error."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--out", type=Path, default=BUILD / "site", help="the folder to serve")
    parser.add_argument("--source", type=Path, default=BUILD / "site-source", help="the pages before the build")
    options = parser.parse_args(arguments)
    try:
        from sphinx.cmd.build import main as sphinx_build
    except ModuleNotFoundError:
        print("docs: sphinx is not installed; run: pip install -c constraints.txt -e '.[docs]'", file=sys.stderr)
        return 2
    try:
        clear(options.out)
        stage(options.source)
    except LopsidedError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 2
    doctrees = options.source.with_name(f"{options.source.name}-doctrees")
    # All pages are read and written: those that have not changed would keep their menus of last time, and their
    # warnings would not be seen.
    switches = ["-b", "html", "-E", "-a", "-W", "--keep-going", "-q", "-c", str(HERE), "-d", str(doctrees)]
    status = sphinx_build([*switches, str(options.source), str(options.out)])
    wrong = list(problems(options.out.resolve()))
    for line in wrong:
        print(f"docs: {line}", file=sys.stderr)
    status = status or bool(wrong)
    if status == 0:
        print(f"wrote {options.out}: open {options.out / 'index.html'}, or serve the folder")
    return status
