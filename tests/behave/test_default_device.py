"""Torch's default device may be another than the model's: nothing of ours may stand on it.

The meta device is the default here, on which a tensor has no numbers: whatever lands on it fails where it is used.
"""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel

import lopsided
from lopsided import METHODS
from lopsided.testing import NETWORKS, adapted, fits, network, optimizer_of, take_steps
from tests import tiny

ELSEWHERE = torch.device("meta")
PAIRS = [(method, kind) for method in tiny.ADAPTERS for kind in NETWORKS if fits(METHODS[method], kind)]


@pytest.mark.uncalibrated
@pytest.mark.parametrize(("method", "kind"), PAIRS)
def test_what_is_made_stands_where_the_model_stands(method, kind, tmp_path):
    base, x = network(kind=kind)
    fresh = copy.deepcopy(base)
    with ELSEWHERE:
        model = adapted(METHODS[method], base)
    optimizer = optimizer_of(model)
    take_steps(model, optimizer, x, 2)
    if METHODS[method].chain:
        with ELSEWHERE:
            lopsided.advance_chain(model, optimizer)
        take_steps(model, optimizer, x, 2)
    expected = model(x)
    with ELSEWHERE:
        model.merge_adapter()
        model.unmerge_adapter()
        with model.disable_adapter():
            assert torch.equal(model(x), fresh(x))
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(fresh, tmp_path).eval()
        lopsided.to_lora(model, tmp_path / "lora")
        assert torch.equal(loaded(x), expected)
    assert torch.equal(model(x), expected)


def test_the_setting_for_denormal_numbers_comes_back():
    """A merge turns flushing off for its sums; what the user had set holds again, also with another default device."""
    model = adapted(METHODS["asym_b"], network()[0])
    tiniest = torch.full((), 5e-324, dtype=torch.float64)
    assert torch.set_flush_denormal(True), "this processor can't flush denormal numbers"
    try:
        with ELSEWHERE:
            model.merge_adapter()
        assert tiniest.mul(1.0) == 0
    finally:
        torch.set_flush_denormal(False)
