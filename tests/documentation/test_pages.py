"""Every code block of README.md and docs runs, or says why not; what a page shows as printed was printed."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

import datasets
import pytest
from transformers.utils import logging
from typer.main import get_command

from lopsided_cli.main import app
from tests.documentation.blocks import ROOT, Block, blocks_of, commands, page_blocks, pages
from tests.documentation.session import Session, matches, restored_tables

PAGES = pages()
BLOCKS = [block for page in PAGES for block in page_blocks(page)]
RUN = sorted({block.page for block in BLOCKS if block.why_not is None and block.language != "text"})
RECIPES = [page for page in PAGES if page.startswith("docs/recipes/")]
CONCEPTS = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs" / "concepts").glob("*.md"))]
# A reason is words, not a mark that somebody put there to be done with it.
SHORTEST_REASON = 3


def faults(block: Block, before: list[Block], after: list[Block]) -> list[str]:
    """What keeps a block from being run or from saying why not."""
    if block.why_not is not None:
        short = len(block.why_not.split()) < SHORTEST_REASON
        return [f"{block.place} is not run for the reason '{block.why_not}'; say why in words"] if short else []
    if block.language not in ("python", "bash", "text") and not block.file:
        return [f"{block.place} is ```{block.language}; only python, bash and files run; say <!-- not run: why -->"]
    if block.language == "text" and not any(b.language in ("python", "bash") and b.why_not is None for b in before):
        return [f"{block.place} shows what nothing printed"]
    if block.file and not any(block.file in each.code for each in after):
        return [f"{block.place} is the file {block.file}, which no block after it uses"]
    return []


def test_every_block_can_be_run_or_says_why_not():
    found = []
    for page in PAGES:
        blocks = page_blocks(page)
        found += [f for i, block in enumerate(blocks) for f in faults(block, blocks[:i], blocks[i + 1 :])]
        # A fence that is indented, or longer, would be run by nobody.
        fences = len(re.findall(r"^\s*`{3,}", (ROOT / page).read_text(encoding="utf-8"), re.M))
        found += [f"{page} has {fences} fences and {len(blocks)} blocks"] if fences != 2 * len(blocks) else []
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("<!-- not run: -->\n```bash\nls\n```\n", "say why"),
        ("<!-- not run: later -->\n```bash\nls\n```\n", "say why"),
        ("```\nls\n```\n", "only python, bash and files run"),
        ("```text\nls\n```\n", "nothing printed"),
        ("<!-- not run: needs a server -->\n```bash\nls\n```\n\n```text\nls\n```\n", "nothing printed"),
        ("```python\n# one.py\nx = 1\n```\n", "no block after it uses"),
    ],
)
def test_the_gate_sees_what_it_forbids(text, fault):
    blocks = blocks_of(text, "page.md")
    assert any(fault in f for i, b in enumerate(blocks) for f in faults(b, blocks[:i], blocks[i + 1 :]))


def test_blocks_are_read_as_the_page_says():
    text = "<!-- given\nx = 1\n-->\n```python\n# a.py\nx\n```\n\n"
    text += "<!-- not run: needs a GPU\n  of 80 GB -->\n\n```bash\nls\n```\n"
    first, second = blocks_of(text, "page.md")
    assert (first.given, first.file, first.why_not, first.line) == ("x = 1\n", "a.py", None, 4)
    assert (second.why_not, second.code, second.line) == ("needs a GPU of 80 GB", "ls\n", 12)


def test_what_was_printed_is_compared():
    assert matches("accuracy … %\nend", "accuracy 81.3 %\n\nend\n")
    assert not matches("accuracy … %\nend", "accuracy 81.3 %\n")
    assert matches("…\nend", "end\n")
    assert not matches("…\nend", "end\nand more\n")
    assert not matches("1.00", "1.01")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.place)
def test_python_is_python(block):
    ast.parse(block.given + block.code)


@pytest.mark.parametrize(
    ("place", "arguments"),
    [(b.place, arguments) for b in BLOCKS if b.language == "bash" for arguments in commands(b, "lopsided")],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
def test_every_command_is_one(place, arguments):
    verb, *others = arguments
    if "--help" not in others:
        get_command(app).commands[verb].make_context(verb, others)


@pytest.mark.parametrize("page", [*RECIPES, *CONCEPTS])
def test_a_page_has_one_title_and_says_first_what_it_is_for(page):
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    assert re.findall(r"^# (.+)$", text, re.M) == [text.splitlines()[0].removeprefix("# ")]
    first = text.split("\n\n")[1]
    assert re.match(r"[A-Z`].*\.$", first, re.S), f"{page} begins with {first!r}"


@pytest.mark.parametrize("page", [*RECIPES, *CONCEPTS])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(link).exists(), f"{page} links to {link}"


@pytest.fixture
def session(tmp_path, monkeypatch, capfd):
    """A reader in an empty folder, whose entries in tables and whose quiet libraries end with the page."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with restored_tables(), warnings.catch_warnings():
        yield Session(Path(tmp_path), module, lambda: capfd.readouterr().out)
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()
    datasets.enable_progress_bars()


# Most of the time of these is the start of processes and the training of tiny models.
@pytest.mark.more
@pytest.mark.uncalibrated
@pytest.mark.parametrize("page", RUN)
def test_what_a_page_shows_runs_in_its_order(page, session):
    for block in page_blocks(page):
        if block.why_not is None:
            session.run(block)


def test_the_pictures_of_the_concepts_are_what_the_script_draws(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import draw_concepts

    drawn = {name: draw() for name, draw in draw_concepts.PICTURES.items()}
    committed = {path.name: path.read_text(encoding="utf-8") for path in draw_concepts.IMAGES.glob("concept-*.svg")}
    assert drawn == committed, "run: python docs/draw_concepts.py"
    shown = "".join((ROOT / page).read_text(encoding="utf-8") for page in CONCEPTS)
    assert all(f"../images/{name}" in shown for name in drawn)
