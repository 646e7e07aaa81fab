"""Two processes that train together end where one process does that sees the whole batch."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from lopsided import METHODS
from lopsided.tuner import layers_of
from tests import tiny
from tests.distributed.worker import KINDS, METHOD_NAMES, RANKS, ROWS, adapted, outcome, run_trainer, train
from tests.tuner.merging import stock

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.uncalibrated, pytest.mark.more]


class Launch:
    """What the processes left, and what they said."""

    def __init__(self, folder: Path, said: str) -> None:
        self.folder, self.said = folder, said

    def results(self, name: str) -> list[dict[str, Any]]:
        files = [self.folder / f"{name}-{rank}.pt" for rank in range(RANKS)]
        assert all(file.exists() for file in files), f"the processes did not come to {name}: {self.said[-4000:]}"
        return [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(scope="session")
def launched(tmp_path_factory):
    """One launch for all tests, since its imports take longer than all that it trains."""
    folder = tmp_path_factory.mktemp("distributed")
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "tests.distributed.worker", str(folder)],
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    return Launch(folder, done.stdout)


@functools.cache
def alone(method: str) -> dict[str, Any]:
    """The same training in this process, with every batch whole."""
    model = adapted(method)
    losses = train(model, model, slice(None), lambda loss: loss)
    return outcome(model, model, losses)


def assert_same_trained(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float) -> None:
    assert actual.keys() == expected.keys() != set()
    for name, tensor in expected.items():
        error = float((actual[name] - tensor).abs().max())
        assert error <= atol, f"{name} is {error:.1e} off"


EACH = pytest.mark.parametrize(("kind", "method"), [(kind, method) for kind in KINDS for method in METHOD_NAMES])


@EACH
def test_two_processes_end_where_one_does(kind, method, launched):
    first, second = launched.results(f"{kind}-{method}")
    assert_same_trained(first["trained"], second["trained"], atol=0.0)
    assert torch.equal(first["logits"], second["logits"])
    expected = alone(method)
    assert first["losses"] == pytest.approx(expected["losses"], abs=1e-6)
    assert_same_trained(first["trained"], expected["trained"], atol=1e-6)
    torch.testing.assert_close(first["logits"], expected["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(first["plain"], tiny.logits(tiny.mlp()), atol=1e-6, rtol=0)
    moved = float((expected["logits"] - expected["plain"]).abs().max())
    assert moved > 0.05, "a training that goes nowhere would show nothing"


@EACH
def test_what_two_processes_save_loads_in_one(kind, method, launched):
    result, _ = launched.results(f"{kind}-{method}")
    loaded = PeftModel.from_pretrained(tiny.mlp(), str(launched.folder / f"{kind}-{method}"))
    assert_same_trained({n: loaded.get_parameter(n) for n in result["trained"]}, result["trained"], atol=0.0)
    torch.testing.assert_close(tiny.logits(loaded), result["logits"], atol=1e-5, rtol=0)
    links = {layer.adapters["default"].link for layer in layers_of(loaded).values()}
    assert links == {2 if METHODS[method].chain else 0}


def test_a_trainer_in_two_processes_advances_in_both(launched, tmp_path):
    first, second = launched.results("trainer")
    assert first["events"] == second["events"] == [(2, 1), (4, 2)]
    assert_same_trained(first["trained"], second["trained"], atol=0.0)
    expected = run_trainer(tmp_path, RANKS * ROWS)
    assert expected["events"] == first["events"]
    assert_same_trained(first["trained"], expected["trained"], atol=1e-5)
    loaded = PeftModel.from_pretrained(tiny.mlp(), str(launched.folder / "trainer" / "checkpoint-6"))
    torch.testing.assert_close(tiny.logits(loaded), first["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["merge", "merge_links"])
def test_a_sharded_weight_is_not_written_to(name, launched):
    for result in launched.results("sharded"):
        assert "can't be written to" in result[name]["says"]
        assert "\n" not in result[name]["says"]
        assert torch.equal(result[name]["after"], result[name]["before"])


def test_links_that_were_merged_before_sharding_come_out_of_the_shards(launched):
    for result in launched.results("sharded"):
        links = result["links"]
        for moment in ("sharded", "enabled", "advanced"):
            torch.testing.assert_close(links[moment], links["before"], atol=1e-5, rtol=0)
        assert torch.equal(links["plain"], tiny.logits(tiny.mlp()))


def test_a_sharded_adapter_saves_and_exports_itself_whole(launched):
    first, _ = launched.results("sharded")
    for folder in ("whole", "lora0", "lora1"):
        loaded = PeftModel.from_pretrained(tiny.mlp(), str(launched.folder / folder))
        torch.testing.assert_close(tiny.logits(loaded), first["saved"], atol=1e-5, rtol=0)


def test_a_sharded_stock_lora_model_merges_exactly(launched):
    for found in launched.results("sharded"):
        exact = found["exact"]
        assert stock.changed(exact["expected"], exact["before"])
        for inside in ("inside", "merged"):
            assert stock.same_bits(exact[inside], exact["expected"])
        for outside in ("after", "unmerged"):
            assert stock.same_bits(exact[outside], exact["before"])
