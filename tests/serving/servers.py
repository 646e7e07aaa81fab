"""A small OpenAI-compatible server on 127.0.0.1 that answers as a model does, in the forms of several servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

# (log p over the vocabulary, how many, text of a token) -> the first choice's logprobs.
FORMS: dict[str, Callable[[torch.Tensor, int, Callable[[int], str]], dict[str, Any]]] = {
    # vLLM, with return_tokens_as_token_ids.
    "token_id": lambda scores, count, text: {
        "top_logprobs": [{f"token_id:{token}": value for token, value in top(scores, count)}]
    },
    # SGLang, and vLLM without it.
    "text": lambda scores, count, text: {"top_logprobs": [{text(token): value for token, value in top(scores, count)}]},
    # llama.cpp's server.
    "content": lambda scores, count, text: {
        "content": [
            {"top_logprobs": [{"id": t, "token": text(t), "logprob": v, "bytes": []} for t, v in top(scores, count)]}
        ]
    },
}


def top(scores: torch.Tensor, count: int) -> list[tuple[int, float]]:
    """The likeliest tokens."""
    best = scores.topk(count)
    return list(zip(best.indices.tolist(), best.values.tolist()))


@contextmanager
def serving(
    models: dict[str, Callable[[list[int]], torch.Tensor]], *, form: str = "token_id", text: Callable[[int], str] = str
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server of models by name, each log p of the next token after a prompt; yields its URL and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def reply(self, record: Any, status: int = 200) -> None:
            body = json.dumps(record).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.reply({"object": "list", "data": [{"id": name} for name in models]})

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, **question})
            if self.path != "/v1/completions" or question["model"] not in models:
                self.reply({"error": f"the model {question['model']} does not exist"}, 404)
                return
            scores = models[question["model"]](question["prompt"])
            self.reply({"choices": [{"text": "", "logprobs": FORMS[form](scores, question["logprobs"], text)}]})

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with listening(Handler) as url:
        yield url, asked


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server with this handler; yields its URL, and ends it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
