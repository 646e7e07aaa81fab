"""The report served on this machine's own address, made again when the files of a run have changed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_text
from lopsided.report import report_text
from lopsided.report.gather import gather
from lopsided.report.sources import state

HOST = "127.0.0.1"


class Watched:
    """The page of some folders, kept up to date; also in the file `out`, without the reloading.

    Args:
        paths: as for `gather`.
        out: the file that is written whenever the page is made.

    Attributes:
        renderings: how many times the page was made.
    """

    def __init__(self, paths: Sequence[Path], out: Path) -> None:
        self.paths, self.out = paths, out
        self.renderings = 0
        self._lock = threading.Lock()
        self._state, self._text = "", ""
        self.page()

    def state(self) -> str:
        """Return the state of the folders; the last one that could be read, while a folder is being replaced."""
        try:
            return state(self.paths)
        except (LopsidedError, FileNotFoundError):
            return self._state

    def page(self) -> str:
        """Return the page as of now; it is made again only if a file has changed since.

        Raises:
            LopsidedError: the first time, for bad input. Later the last good page is kept.
        """
        with self._lock:
            now = self.state() if self._text else state(self.paths)
            if now != self._state:
                try:
                    gathered = gather(self.paths)
                except (LopsidedError, FileNotFoundError):
                    if not self._text:
                        raise
                    return self._text
                self._state, self._text = now, report_text(gathered, live=now)
                self.renderings += 1
                write_text(self.out, report_text(gathered), errors="replace")
            return self._text


def server(watched: Watched, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the page at /, and of its state at /version; the caller starts and closes it.

    Args:
        port: 0 takes a free one.

    Raises:
        LopsidedError: if the port cannot be used.
    """

    allowed: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        """Answers requests that name this machine, from `watched`."""

        def do_GET(self) -> None:
            """Answer a request for the page or its state, from a page of this machine alone."""
            if self.headers.get("Host") not in allowed:
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path == "/":
                self._answer(watched.page(), "text/html")
            elif self.path == "/version":
                self._answer(watched.state(), "text/plain")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, text: str, kind: str) -> None:
            body = text.encode("utf-8", errors="replace")
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: the page asks every two seconds."""

    try:
        serving = ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise LopsidedError(f"--port {port} cannot be used: {error}; choose another, or leave it out") from error
    # A page on another host whose name leads to this machine must not read the runs.
    allowed += [f"{HOST}:{serving.server_port}", f"localhost:{serving.server_port}"]
    return serving
