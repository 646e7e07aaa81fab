"""One loss curve a method: a change in how a method walks shows here, even where every contract still holds.

`python tests/test_golden.py` writes the curves anew, for a change that was meant.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import lopsided
from lopsided import METHODS
from lopsided.testing import adapted, network
from tests.tiny import ADAPTERS

pytestmark = pytest.mark.uncalibrated
CURVES = Path(__file__).parent / "golden_losses.json"


def curve(name: str) -> list[float]:
    """Losses of 12 AdamW steps towards ones, with an advance after every third step."""
    base, x = network()
    model = adapted(METHODS[name], base)
    optimizer = torch.optim.AdamW(lopsided.param_groups(model, lr=1e-2))
    losses = []
    for step in range(12):
        optimizer.zero_grad()
        loss = (model(x) - 1.0).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(round(loss.item(), 6))
        if METHODS[name].chain and step % 3 == 2:
            lopsided.advance_chain(model, optimizer)
    return losses


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_curve_is_the_golden_one(name):
    golden = json.loads(CURVES.read_text())
    assert set(golden) == set(ADAPTERS)
    assert curve(name) == pytest.approx(golden[name], abs=2e-4)


def test_methods_walk_differently():
    golden = json.loads(CURVES.read_text())
    # Equal parts are the same method, and nothing else is.
    assert golden["paca"] == golden["rcla"]
    assert len({tuple(losses) for losses in golden.values()}) == len(ADAPTERS) - 1


if __name__ == "__main__":
    CURVES.write_text(json.dumps({name: curve(name) for name in ADAPTERS}, indent=1) + "\n")
