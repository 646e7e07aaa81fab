"""A stand-in for the Hugging Face hub on this machine: what `huggingface_hub` asks when a model is pushed and loaded.

It answers in the form that the client checks (huggingface_hub 2.4: `_commit_api`, `lfs`, `file_download`), keeps
repositories in memory, and notes every request; one that it does not know is answered 404 and stands in `unknown`.
Tensors go by git LFS to a second server, as on the hub, everything else within the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"
LARGE = (".safetensors", ".bin")


class Store(ThreadingHTTPServer):
    """The server of large files, by their hashes: no host of the hub, so that the client may send no token to it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StoreAnswer)
        self.large: dict[str, bytes] = {}

    def address(self, oid: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{oid}"


class Hub(ThreadingHTTPServer):
    """The server: repositories by name, each with the files of its last commit.

    Attributes:
        store: the large files.
        files: by repository and path; of a large one its hash, whose bytes are in the store.
        commits: of each repository, the summaries of its commits.
        asked: method and path of every request.
        unknown: requests that no answer is known to.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubAnswer)
        self.store = Store()
        self.files: dict[str, dict[str, bytes | str]] = {}
        self.commits: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.unknown: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def oid(self, repo: str) -> str:
        """Return the name of a repository's last commit, of 40 hex digits."""
        return hashlib.sha1(f"{repo} {len(self.commits[repo])}".encode()).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """Serve until the end of the context."""
    hub = Hub()
    servers = (hub, hub.store)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads):
            server.shutdown()
            server.server_close()
            thread.join(10)


class Answer(BaseHTTPRequestHandler):
    """The answer to one request."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _json(self, value: object, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}, code)

    def _send(self, body: bytes, headers: dict[str, str], code: int = 200) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def _mode(path: str) -> dict[str, object]:
    """Return how a file is to be sent."""
    return {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}


class StoreAnswer(Answer):
    """Takes and gives bytes by their hash; the address is the permission, and a token does not belong here."""

    server: Store

    def do_PUT(self) -> None:
        oid, body = self.path.removeprefix("/"), self._body()
        right = hashlib.sha256(body).hexdigest() == oid and "Authorization" not in self.headers
        if right:
            self.server.large[oid] = body
        self._send(b"", {}, 200 if right else 400)

    def do_GET(self) -> None:
        body = self.server.large.get(self.path.removeprefix("/"))
        if body is None or "Authorization" in self.headers:
            self._send(b"", {}, 400)
        else:
            self._send(body, {"ETag": f'"{self.path.removeprefix("/")}"'})


class HubAnswer(Answer):
    """What the hub's programming interface answers."""

    server: Hub

    def do_POST(self) -> None:
        body, path = self._body(), self._path()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            asked = json.loads(body)
            assert asked["repoType"] == "model"
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            self._json({"files": [_mode(each["path"]) for each in json.loads(body)["files"]]})
        elif match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            self._batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._nothing()

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def _read(self) -> None:
        path = self._path()
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[3])
        else:
            self._nothing()

    def _create(self, asked: dict[str, object]) -> None:
        repo = f"{asked['organization'] or 'stand-in'}/{asked['name']}"
        if repo in self.server.files:
            self._json({"error": "You already created this model repo", "url": f"{self.server.url}/{repo}"}, 409)
            return
        self.server.files[repo], self.server.commits[repo] = {}, []
        self._json({"url": f"{self.server.url}/{repo}", "name": repo, "id": repo})

    def _batch(self, asked: dict[str, object]) -> None:
        assert asked["operation"] == "upload"
        assert "basic" in asked["transfers"]
        objects = [
            {**each, "actions": {"upload": {"href": self.server.store.address(each["oid"])}}}
            for each in asked["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, lines: list[dict[str, dict[str, str]]]) -> None:
        head, *operations = lines
        assert head["key"] == "header"
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "lfsFile":
                assert value["oid"] in self.server.store.large
                self.server.files[repo][value["path"]] = value["oid"]
            else:
                assert (operation["key"], value["encoding"]) == ("file", "base64")
                self.server.files[repo][value["path"]] = base64.b64decode(value["content"])
        self.server.commits[repo].append(head["value"]["summary"])
        oid = self.server.oid(repo)
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"})

    def _resolve(self, repo: str, path: str) -> None:
        if repo not in self.server.files:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        commit = {"X-Repo-Commit": self.server.oid(repo)}
        content = self.server.files[repo].get(path)
        if content is None:
            self._json({"error": "Entry not found"}, 404, {**commit, "X-Error-Code": "EntryNotFound"})
        elif isinstance(content, str):
            size = len(self.server.store.large[content])
            linked = {"X-Linked-ETag": f'"{content}"', "X-Linked-Size": str(size)}
            self._send(b"", {**commit, **linked, "Location": self.server.store.address(content)}, 302)
        else:
            self._send(content, {**commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    def _path(self) -> str:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        return path

    def _nothing(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self._json({"error": "not known here"}, 404)
