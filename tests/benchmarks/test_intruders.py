"""The benchmark's script, once on a small layer."""

import json

import pytest
import torch

from benchmarks import intruders


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.more
def test_both_ways_count_the_same(tmp_path, capsys):
    arguments = ["--quick", "--hidden", "120", "--out", str(tmp_path)]
    assert intruders.BENCHMARK.main(arguments) == 0
    result = json.loads((tmp_path / "intruders.json").read_text())
    assert result["figures"].keys() == {"0.01", "0.1", "1.0"}
    for found in result["figures"].values():
        assert found["equal"]
        assert found["certified"]
        assert found["counts"]["search"] == found["counts"]["decomposition"]
        assert found["times_faster"]["median"] > 0
    assert result["figures"]["1.0"]["counts"]["float64"][-1] == 10
    assert "2 rounds" in capsys.readouterr().out


def test_unknown_shares_are_refused(tmp_path, capsys):
    assert intruders.BENCHMARK.main(["--quick", "--only", "7", "--out", str(tmp_path)]) == 2
    assert "expected shares among" in capsys.readouterr().err
