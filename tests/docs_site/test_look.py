"""A site of a few pages in a browser: three widths, light and dark, no other host, search and keyboard."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from threading import Thread

import pytest

from docs_site.build_site import HERE
from docs_site.command_pages import verb_page
from docs_site.existing_pages import images, written_page
from docs_site.link_targets import REPOSITORY, site_address
from docs_site.method_pages import method_page
from docs_site.staged_tree import StagedTree
from lopsided import METHODS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.more, pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH")]
PAGES = ("index", "lab", "performance", "methods/bernoulli", "commands/train")


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a line per request."""

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a site of `PAGES` is served; it has dead links, to pages that it leaves out."""
    pytest.importorskip("sphinx", reason="the extra docs is for Python 3.11 and newer")
    folder = tmp_path_factory.mktemp("small")
    tree = StagedTree(folder / "source")
    for page in ("docs/lab.md", "docs/performance.md"):
        tree.put(site_address(PurePosixPath(page)), written_page(tree, PurePosixPath(page)))
    for image in images():
        tree.put(site_address(image), (REPOSITORY / image).read_bytes())
    tree.put("methods/bernoulli.md", method_page(METHODS["bernoulli"]))
    tree.put("commands/train.md", verb_page("train"))
    tree.put("index.md", "# Small\n\n```{toctree}\n" + "\n".join(PAGES[1:]) + "\n```\n")
    command = [sys.executable, "-m", "sphinx", "-Q", "-c", str(HERE), str(folder / "source"), str(folder / "site")]
    subprocess.run(command, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder / "site"))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_pages_fit_their_width_and_need_no_other_host(address, browser, width):
    grounds, outside, errors = {}, [], []
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        # A machine that is busy with other tests draws slowly.
        context.set_default_timeout(240_000)
        page = context.new_page()
        page.on("request", lambda request: request.url.startswith((address, "data:")) or outside.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in PAGES:
            page.goto(f"{address}/{name}.html")
            root = "document.documentElement"
            assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), f"{name} scrolls sideways"
            broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
            assert page.evaluate(broken) == []
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        context.close()
    assert not outside
    assert not errors
    assert grounds["light"] != grounds["dark"]


def test_a_formula_is_drawn_in_lines(address, browser):
    page = browser.new_page()
    page.goto(f"{address}/methods/bernoulli.html")
    box = page.locator("math").first.bounding_box()
    # Four equations below each other.
    assert box["height"] > 60
    assert box["width"] > 100
    page.close()


def test_search_by_keyboard_finds_a_word(address, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 800})
    page.goto(f"{address}/index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("counterexample")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    assert "Lab" in page.locator("#search-results").inner_text()
    page.close()
