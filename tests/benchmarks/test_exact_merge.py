"""The benchmark of merging for a while: what it counts, on a tiny model."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import exact_merge, measuring

TINY = measuring.Setting(**{**measuring.QUICK, "rounds": 6})


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.more
def test_the_script(tmp_path, capsys):
    assert exact_merge.BENCHMARK.main(["--quick", "--rounds", "6", "--out", str(tmp_path), "--only", "bfloat16"]) == 0
    result = json.loads((tmp_path / "exact_merge.json").read_text())
    assert list(result["figures"]) == ["bfloat16, 1 %", "bfloat16, 10 %", "bfloat16, 10 %, at rest"]
    said = capsys.readouterr().out
    assert "| bfloat16, 1 %: exact | 0 % | 0 % | 0 % | 0 % | 0 % |" in said
    assert "changed by 7" in said
    for found in result["figures"].values():
        stock, copied, exact = (found["ways"][name] for name in ("stock PEFT", "a copy", "exact"))
        assert stock["bytes_a_weight"] == 0
        assert 0 < stock["after_one"]["changed"] <= stock["after_all"]["changed"] < 1
        assert 0 < stock["after_one"]["drift"] < stock["after_all"]["drift"] < stock["after_all"]["worst"]
        assert copied["bytes_a_weight"] == 2
        assert exact["bytes_a_weight"] > exact_merge.copies(result["setting"])
        for way in (copied, exact):
            assert way["after_one"] == way["after_all"] == {"changed": 0.0, "drift": 0.0, "worst": 0.0}
        assert all(way["ms"]["median"] > 0 for way in found["ways"].values())


def test_the_update_has_the_share_that_it_is_named_after():
    model = exact_merge.adapted(TINY, torch.float32, 0.1)
    for layer in model.modules():
        if hasattr(layer, "lora_B"):
            share = float(layer.get_delta_weight("default").norm() / layer.weight.norm())
            assert share == pytest.approx(0.1, rel=1e-4)


def test_the_ways_see_the_same_factors():
    ways = [way(exact_merge.adapted(TINY, torch.float32, 0.1)) for way in exact_merge.WAYS.values()]
    for _ in range(3):
        for cycles in ways:
            cycles.run()
    first, *others = ([B.detach().clone() for B in exact_merge.factors(cycles.model)] for cycles in ways)
    assert all(torch.equal(one, other) for each in others for one, other in zip(first, each))
