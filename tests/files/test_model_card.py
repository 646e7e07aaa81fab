"""What a saved adapter's model card says to a reader who has PEFT alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from peft import PeftModel

import lopsided
from lopsided.files.model_card import add_note
from tests import tiny


def adapted():
    return lopsided.adapt(tiny.bert(), "cla", r=2, target_modules="all-linear")


def test_the_card_has_the_line_that_loading_needs(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "peft"
    assert "import lopsided" in card.text
    assert "KeyError: 'LOPSIDED'" in card.text
    assert "Use the code below to get started with the model" not in card.text
    # A second save changes nothing, and neither does a user's own text.
    first = (tmp_path / "README.md").read_text()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == first
    own = first.replace("# Model Card for Model ID", "# Rivers and stones")
    (tmp_path / "README.md").write_text(own)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == own


def test_a_users_own_card_keeps_its_text(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Rivers\n\nMine.\n")
    adapted().save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.index("Mine.") < text.index("import lopsided")


def test_a_named_adapters_card_is_above_it(tmp_path):
    model = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules="all-linear", adapter_name="other")
    model.save_pretrained(tmp_path)
    assert "import lopsided" in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "other" / "README.md").exists()


def test_a_readme_that_is_not_pefts_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("# A repository\n")
    lopsided.LopsidedConfig(method="cla").save_pretrained(str(tmp_path / "adapter"))
    assert (tmp_path / "README.md").read_text() == "# A repository\n"
    add_note(tmp_path / "nowhere" / "at-all")


def snippet_of(folder: Path) -> str:
    [snippet] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.S)
    return snippet


def test_the_snippet_of_the_card_loads(tmp_path):
    adapted().save_pretrained(tmp_path)
    code = (
        snippet_of(tmp_path).replace("base = ...", "base = tiny.bert()").replace('"this folder"', repr(str(tmp_path)))
    )
    names = {"tiny": tiny}
    exec(code, names)
    assert isinstance(names["model"], PeftModel)


@pytest.mark.more
@pytest.mark.parametrize("imported", [False, True])
def test_the_snippet_of_the_card_is_what_loading_needs(tmp_path, imported):
    adapted().save_pretrained(tmp_path)
    snippet = snippet_of(tmp_path)
    if not imported:
        snippet = re.sub(r"^import lopsided.*$", "", snippet, flags=re.M)
    # The tests' models import lopsided, which this reader has not.
    base = "from tests import tiny; base = tiny.bert()" if imported else "base = None"
    code = snippet.replace("base = ...", base).replace('"this folder"', repr(str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert (done.returncode == 0) == imported
    assert imported or "KeyError: 'LOPSIDED'" in done.stderr
