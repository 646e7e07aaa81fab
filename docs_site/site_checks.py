"""What is looked at once a site is built: that it needs no other host, and that every link inside it leads somewhere.

A link that a reader may follow to another host is fine; a style, font, script or picture that a page would fetch from
one is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Elements that load what they name, with the attributes that name it; a link does so by its relation alone.
LOADS = {
    **{"script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset")},
    **{"embed": ("src",), "object": ("data",), "audio": ("src",), "video": ("src", "poster"), "use": ("href",)},
}
LOADED_RELATIONS = {"stylesheet", "icon", "shortcut icon", "preload", "modulepreload", "preconnect", "dns-prefetch"}
IN_STYLES = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""")


class PageReader(HTMLParser):
    """What a page names: its anchors, its links, and what it loads.

    Args:
        text: the page.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        self.loaded += IN_STYLES.findall(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element's name, link and load."""
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.loaded += [given[name] for name in LOADS.get(tag, ()) if name in given]
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and "href" in given:
            (self.loaded if given.get("rel") in LOADED_RELATIONS else self.links).append(given["href"])


def problems(site: Path) -> Iterator[str]:
    """Yield what is wrong with a built site, a line for each."""
    pages = {path: PageReader(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site)
        yield from (f"{name} loads {url}" for url in page.loaded if is_outside(url))
        inside = [url for url in page.links + page.loaded if not urlsplit(url).scheme and not is_outside(url)]
        yield from (f"{name} links to {url}, {wrong}" for url in inside if (wrong := _dead_end(url, path, pages)))
    for path in sorted(site.rglob("*.css")):
        outside = IN_STYLES.findall(path.read_text(encoding="utf-8"))
        yield from (f"{path.relative_to(site)} loads {url}" for url in outside)


def is_outside(url: str) -> bool:
    """Return whether a browser would ask another host for it.

    Example:
        >>> [is_outside(url) for url in ("https://a/b.css", "//a/b.js", "b.css", "data:image/png;base64,AA")]
        [True, True, False, False]
    """
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme in ("http", "https")


def _dead_end(url: str, page: Path, pages: dict[Path, PageReader]) -> str:
    """Return why a link inside the site leads nowhere, or nothing."""
    parts = urlsplit(url)
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file():
        return "which is not there"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "whose anchor is not there"
    return ""
