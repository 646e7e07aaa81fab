"""A client of an OpenAI-compatible server's `/v1/completions`: the likeliest next tokens after a prompt of token ids.

vLLM, SGLang and llama.cpp's server take token ids as a prompt. They answer in two forms: `top_logprobs`, a table of
log p by the token's text (with vLLM's `return_tokens_as_token_ids`, by "token_id:17"), and llama.cpp's `content`, a
list in which each token has its id. The server is not trusted: answers are bounded in size and time, no redirect is
followed, and no proxy is used.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import math
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from lopsided.errors import LopsidedError, first_line
from lopsided.files.untrusted import parse_json
from lopsided.serving.verdict import TokenScore

SECONDS = 120.0
MAX_BYTES = 2**22
TOKEN_ID = "token_id:"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A handler that refuses redirects: a server on this machine must not send the prompts elsewhere."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Return None: the redirect is an error."""
        return


def is_url(target: str) -> bool:
    """Return whether a target of a probe is a server and not a folder.

    Example:
        >>> is_url("http://127.0.0.1:8000"), is_url("runs/one/lora")
        (True, False)
    """
    return target.lower().startswith(("http://", "https://"))


def is_loopback(url: str) -> bool:
    """Return whether a URL is of this machine, by its text: `localhost`, 127.0.0.0/8 or ::1.

    Example:
        >>> is_loopback("http://127.0.0.1:8000"), is_loopback("http://127.0.0.1.example.org")
        (True, False)
    """
    host = _parts(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # A name, which may be anybody's.
        return False


@dataclass(frozen=True)
class CompletionServer:
    """A server, and the model to ask it for.

    Args:
        url: its root, with or without "/v1".
        model: the name that it serves the adapter under.
    """

    url: str
    model: str

    def likeliest(self, ids: Sequence[int], count: int) -> list[TokenScore]:
        """Return the likeliest next tokens after a prompt.

        Args:
            ids: the prompt.
            count: how many.

        Raises:
            LopsidedError: if the server does not answer, or not with log-probabilities.
        """
        record = _exchange(
            f"{_root(self.url)}/completions",
            {
                "model": self.model,
                "prompt": list(ids),
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": count,
                # Texts are not always told apart: many are one broken character. Servers other than vLLM pass over it.
                "return_tokens_as_token_ids": True,
            },
        )
        scores = _scores(record)
        if not scores:
            raise LopsidedError(
                f"{self.url} answers without log-probabilities of tokens; expected choices[0].logprobs with "
                f"top_logprobs or content; received {record!r:.160}; ask a server that has them"
            )
        return scores


def connect(url: str, model: str | None) -> CompletionServer:
    """Return a server, with the only model that it serves where none is named.

    Args:
        url: its root, with or without "/v1".
        model: the name that it serves the adapter under; None where it serves one model.

    Raises:
        LopsidedError: if the URL is no plain one, the server does not answer, or serves several models and none is
            named.
    """
    parts = _parts(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise LopsidedError(f"expected a URL as http://127.0.0.1:8000, got {url!r:.120}; correct it")
    if model is not None:
        return CompletionServer(url, model)
    data = _exchange(f"{_root(url)}/models", None).get("data")
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    names = [name for entry in entries if isinstance(name := entry.get("id"), str)]
    if len(names) != 1:
        shown = ", ".join(repr(name)[:60] for name in names[:8]) or "none"
        raise LopsidedError(
            f"{url} serves the models {shown}; name the one that the adapter is served under with --model"
        )
    return CompletionServer(url, names[0])


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    # Brackets that do not close, and the like.
    except ValueError as error:
        raise LopsidedError(f"expected a URL as http://127.0.0.1:8000, got {url!r:.120}; correct it") from error


def _root(url: str) -> str:
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def _exchange(address: str, question: Mapping[str, Any] | None) -> dict[str, Any]:
    """Send a question by POST, or None by GET, and return the server's JSON answer."""
    data = None if question is None else json.dumps(question, allow_nan=False).encode()
    request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    try:
        with opener.open(request, timeout=SECONDS) as response:
            body = response.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(400).decode(errors="replace")
        raise LopsidedError(
            f"{address} answered {error.code}: {' '.join(said.split())[:200]}; expected an OpenAI-compatible server "
            "that serves a model of that name; check the URL and --model"
        ) from error
    # No such host, nobody listening, no answer in time, or one that is no HTTP.
    except (OSError, http.client.HTTPException) as error:
        raise LopsidedError(
            f"{address} does not answer: {first_line(error):.160}; expected an OpenAI-compatible server; start it, or "
            "check the URL"
        ) from error
    if len(body) > MAX_BYTES:
        raise LopsidedError(
            f"{address} answered with more than {MAX_BYTES} bytes; expected one token's scores; check the URL"
        )
    return parse_json(body, f"the answer of {address}")


def _scores(record: Mapping[str, Any]) -> list[TokenScore]:
    """Return the scores of the first token of an answer, in either form; [] if there are none."""
    choices = record.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    logprobs = first.get("logprobs") if isinstance(first, dict) else None
    if not isinstance(logprobs, dict):
        return []
    top, content = logprobs.get("top_logprobs"), logprobs.get("content")
    if isinstance(top, list) and top and isinstance(top[0], dict):
        return [score for name, value in top[0].items() if (score := _score(None, name, value))]
    entries = (
        content[0].get("top_logprobs") if isinstance(content, list) and content and isinstance(content[0], dict) else []
    )
    return [
        score
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and (score := _score(entry.get("id"), entry.get("token"), entry.get("logprob")))
    ]


def _score(token: Any, name: Any, value: Any) -> TokenScore | None:
    """Return a score, or None where an answer has no number or no name for it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if isinstance(token, int) and not isinstance(token, bool):
        return TokenScore(id=token, text=None, value=float(value))
    if not isinstance(name, str):
        return None
    if name.startswith(TOKEN_ID) and name.removeprefix(TOKEN_ID).isdecimal():
        return TokenScore(id=int(name.removeprefix(TOKEN_ID)), text=None, value=float(value))
    return TokenScore(id=None, text=name, value=float(value))
