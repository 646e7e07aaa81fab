"""The README fits two screens and leads on; a user's own method is short, and its adapter loads without its file.

The README's code is run by tests/documentation.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel

import lopsided
from lopsided import METHODS
from lopsided.method.sketch import SKETCHES
from lopsided.testing import Net, network

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = ROOT / "docs" / "recipes"
# Two screens and a little; a longer one has something that belongs into docs.
MOST_LINES = 115
# Where each word is explained: in the README itself, no later than it is first used in a sentence.
DEFINED = {
    "sketch": "stay frozen (it is then called the **sketch**)",
    "link": "each **link** of a chain, a stage that is merged into the weights",
    "G(W)": "G(W) is the size of",
    "intruder": "**Intruders** (singular vectors",
}


def own_method() -> str:
    page = (RECIPES / "own-method.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "class Signs" in block]
    return code


def test_the_readme_is_two_screens_that_lead_on():
    assert README.count("\n") <= MOST_LINES
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", README)
    assert not [link for link in links if not (ROOT / link).exists()]
    folders = {"docs/recipes", "docs/decisions"} & set(links)
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")}
    # What no table of the README leads to is reached from the site's menu.
    assert folders
    assert len(pages & set(links)) > 12


@pytest.mark.parametrize("word", DEFINED)
def test_words_are_explained_where_they_first_stand(word):
    # Headings of tables aside: what a column is called is said below the table.
    prose = " ".join(line for line in README.splitlines() if not line.startswith("|"))
    plain = re.sub(r"\s+", " ", prose).lower()
    assert plain.index(DEFINED[word].lower()) <= plain.index(word.lower())


TRAIN = """
import sys, torch, mine, lopsided
from lopsided.testing import network
base, x = network()
model = lopsided.adapt(base, "signs", r=2, target_modules=["first", "second"], links=3)
optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
for _ in range(2):
    model(x).square().sum().backward()
    optimizer.step()
    lopsided.advance_chain(model, optimizer)
model(x).square().sum().backward()
optimizer.step()
model.save_pretrained(sys.argv[1])
torch.save(model(x).detach(), sys.argv[1] + "/expected.pt")
"""


def forget() -> None:
    """Take out of this process what the user's file has put into it."""
    for table, name in ((METHODS, "signs"), (SKETCHES, "Signs"), (sys.modules, "mine")):
        del table[name]


@pytest.mark.parametrize("process", ["this", pytest.param("another", marks=pytest.mark.more)])
def test_a_users_method_is_short_and_its_adapter_loads_without_its_file(process, tmp_path, monkeypatch):
    code = own_method()
    assert len([line for line in code.splitlines() if line.strip()]) < 15
    (tmp_path / "mine.py").write_text(code)
    folder = tmp_path / "adapter"
    if process == "another":
        subprocess.run([sys.executable, "-c", TRAIN, str(folder)], check=True, cwd=tmp_path, capture_output=True)
    else:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(sys, "argv", ["-c", str(folder)])
        exec(TRAIN, {})
        forget()
    # This process never imported the user's file, or has forgotten it.
    assert "signs" not in lopsided.METHODS
    assert "Signs" not in SKETCHES
    base, x = network()
    assert isinstance(base, Net)
    loaded = PeftModel.from_pretrained(base, str(folder)).eval()
    assert torch.equal(loaded(x), torch.load(folder / "expected.pt"))
    lopsided.to_lora(loaded, tmp_path / "lora")


def test_every_method_is_named_where_one_is_chosen():
    page = (RECIPES / "choose.md").read_text(encoding="utf-8")
    table = page[page.index("## All methods") :]
    assert all(f"`{name}`" in table for name in lopsided.METHODS)
    assert f"their neighbours, {len(lopsided.METHODS) - len(('full', 'head'))} in all" in re.sub(r"\s+", " ", README)


def test_the_picture_is_what_the_script_draws(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import draw_overview

    assert draw_overview.picture() == draw_overview.PICTURE.read_text(encoding="utf-8"), "python docs/draw_overview.py"
