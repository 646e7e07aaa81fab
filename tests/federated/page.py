"""The commands and messages of docs/federated.md, so that tests run what the page says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "federated.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The text under a heading."""
    [text] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return text


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """The commands of a text's blocks, in order, each as its arguments."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [arguments for line in lines if (arguments := shlex.split(line, comments=True))]


def with_places(command: list[str], places: Mapping[str, object]) -> list[str]:
    """A command with other hosts, ports and paths: of two that begin alike, the first one in `places` counts."""
    any_place = re.compile("|".join(map(re.escape, places)))
    return [any_place.sub(lambda found: str(places[found.group()]), argument) for argument in command]


def messages() -> list[tuple[str, list[str]]]:
    """Who says what: the rows of the table of messages, each with the parts of its line."""
    rows = re.findall(r"^\| (.*?) \| (.*?) \| .* \|$", section("Messages, and what to do"), re.M)
    return [(who.strip("`"), re.findall(r"`(.*?)`", line)) for who, line in rows if "`" in line]
