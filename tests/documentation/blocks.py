"""The code blocks of README.md and docs: what runs, what a page says it prints, and what says why it does not run.

In front of a block a page may have a comment, which no reader sees:

- `<!-- not run: REASON -->`: the block is not run, and why;
- `<!-- given`, Python code, `-->`: run before the block, where a page shows a part of somebody's program.

A block of Python or TOML whose first line is `# name.py` or `# name.toml` is a file that the reader saves, and a later
command uses it. A block of `text` is what the block before it prints; `…` stands for what differs from run to run.

`python -m tests.documentation.blocks` lists what is not run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:^<!--(?P<note>(?:(?!-->).)*)-->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
NOT_RUN = re.compile(r"\s*not run:(?P<reason>.*)", re.S)
GIVEN = re.compile(r"\s*given\n(?P<code>.*)", re.S)
FILE = re.compile(r"# (?P<name>[\w-]+\.(?:py|toml))\n")


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment before it says.

    Args:
        why_not: the reason for not running it; None if it is run.
        given: code to run before it.
        file: the name under which a reader saves it; "" for code that is run as it stands.
    """

    page: str
    line: int
    language: str
    code: str
    why_not: str | None = None
    given: str = ""
    file: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str) -> list[Block]:
    """The blocks of a page in their order."""
    return [_block(match, page, text.count("\n", 0, match.start("language")) + 1) for match in BLOCK.finditer(text)]


def _block(match: re.Match[str], page: str, line: int) -> Block:
    note, language, code = match["note"] or "", match["language"], match["code"]
    not_run, given = NOT_RUN.fullmatch(note), GIVEN.fullmatch(note)
    file = FILE.match(code) if language in ("python", "toml") else None
    return Block(
        page=page,
        line=line,
        language=language,
        code=code,
        why_not=" ".join(not_run["reason"].split()) if not_run else None,
        given=given["code"] if given else "",
        file=file["name"] if file else "",
    )


def pages() -> list[str]:
    """Every page with code, seen from the repository's root."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in paths if "```" in path.read_text(encoding="utf-8")]


def page_blocks(page: str) -> list[Block]:
    return blocks_of((ROOT / page).read_text(encoding="utf-8"), page)


def commands(block: Block, program: str) -> Iterator[list[str]]:
    """The arguments of each call of a program in a block of shell."""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if program in words[:1]:
            yield words[1:]


if __name__ == "__main__":
    for page in pages():
        for block in page_blocks(page):
            if block.why_not is not None:
                print(f"{block.place}: {block.why_not}")
