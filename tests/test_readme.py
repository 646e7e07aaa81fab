"""The README's own code runs."""

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

README = (Path(__file__).parents[1] / "README.md").read_text()


def own_method() -> str:
    [code] = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "class Signs" in block]
    return code


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


def test_every_method_is_named():
    assert all(f"`{name}`" in README for name in lopsided.METHODS)
