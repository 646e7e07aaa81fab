"""Adapters, whole models' states and run directories of earlier versions keep loading.

`tests/samples/0.1.0` was written by version 0.1.0: a network, 18 adapters on it (chains at link 2 of 5), what each of
them computes, the whole states of two chains, and four runs of a tiny BERT.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel, inject_adapter_in_model
from safetensors.torch import load_file

import lopsided
from lopsided import LopsidedConfig, LopsidedError
from lopsided.runs import TrainConfig, train
from lopsided.testing import Net, adapted
from lopsided.tuner import layers_of
from lopsided.tuner.config import SCHEMA
from lopsided.verify import verify

FOLDER = Path(__file__).parent / "samples" / "0.1.0"
ADAPTERS = sorted(path.name for path in (FOLDER / "adapters").iterdir())
RUNS = sorted(path.name for path in (FOLDER / "runs").iterdir())
# On another processor a product may round otherwise.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def base() -> tuple[Net, torch.Tensor]:
    saved = load_file(FOLDER / "base.safetensors")
    x = saved.pop("x")
    net = Net().eval()
    net.load_state_dict(saved)
    return net, x


@pytest.fixture(scope="module")
def expected():
    return load_file(FOLDER / "expected.safetensors")


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_an_adapter_of_0_1_0_is_the_same_function(name, low_cpu_mem_usage, expected, tmp_path):
    net, x = base()
    folder = str(FOLDER / "adapters" / name)
    model = PeftModel.from_pretrained(net, folder, low_cpu_mem_usage=low_cpu_mem_usage)
    torch.testing.assert_close(model(x), expected[name], **CLOSE)
    # Saved again it is of this version.
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["schema"] == SCHEMA == 2
    kinds = {key.rpartition(".lopsided_")[2] for key in _keys(tmp_path) if ".lopsided_" in key} - {"manifest"}
    assert all(kind.startswith("state.") or kind.endswith(".weight") for kind in kinds)
    again = PeftModel.from_pretrained(base()[0], str(tmp_path))
    assert torch.equal(again(x), model(x))
    with again.disable_adapter():
        assert torch.equal(again.base_model.model.first.base_layer.weight, base()[0].first.weight)


def _keys(folder: Path) -> set[str]:
    return set(load_file(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_of_0_1_0_verifies(name):
    found = verify(FOLDER / "adapters" / name)
    assert found["checks"]["configuration"].startswith("schema 1")
    assert "all equal" in found["checks"]["hashes"]


@pytest.mark.parametrize("name", ["asym_b", "rac_b"])
def test_a_loader_that_does_not_know_the_older_names_is_refused(name):
    # As transformers' own does: it goes by the names in the file.
    net, x = base()
    config = LopsidedConfig.from_pretrained(FOLDER / "adapters" / name)
    model = inject_adapter_in_model(config, net)
    model.load_state_dict(load_file(FOLDER / "adapters" / name / "adapter_model.safetensors"), strict=False)
    with pytest.raises(LopsidedError, match=r"tensors were not loaded.*PeftModel.from_pretrained"):
        model(x)


@pytest.mark.parametrize("name", ["rac_b", "bernoulli"])
def test_a_whole_state_of_0_1_0(name, expected):
    net, x = base()
    model = adapted(lopsided.METHODS[name], net)
    model.load_state_dict(load_file(FOLDER / f"state_{name}.safetensors"))
    torch.testing.assert_close(model(x), expected[name], **CLOSE)
    assert all(layer.adapters["default"].link == 2 for layer in layers_of(model).values())
    with model.disable_adapter():
        assert torch.equal(model.base_model.model.first.base_layer.weight, base()[0].first.weight)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The runs where their records say that model and task are."""
    for part in ("model", "task", "runs"):
        shutil.copytree(FOLDER / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_0_1_0_verifies_and_is_not_run_again(name, runs):
    record = json.loads((runs / name / "run.json").read_text())
    assert record["schema"] == 1
    assert verify(runs / name)["kind"] == "run"
    options = {k: v for k, v in record["config"].items() if v is not None} | {"out": runs / name}
    again = train(TrainConfig(**options), resume=True).to_json()
    assert again["metrics"] == record["metrics"]


def test_a_run_of_0_1_0_that_was_cut_off_ends_where_it_would_have(runs):
    whole = np.load(runs / "c3la" / "predictions.npz")
    record = json.loads((runs / "c3la" / "run.json").read_text())
    shutil.rmtree(runs / "c3la" / "adapter")
    shutil.rmtree(runs / "c3la" / "checkpoints" / "checkpoint-8")
    (runs / "c3la" / "predictions.npz").unlink()
    (runs / "c3la" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    options = {k: v for k, v in record["config"].items() if v is not None} | {"out": runs / "c3la"}
    again = train(TrainConfig(**options), resume=True).to_json()
    assert again["status"] == "finished"
    now = np.load(runs / "c3la" / "predictions.npz")
    assert all(np.allclose(now[key], whole[key], atol=1e-4) for key in whole.files if whole[key].dtype.kind == "f")
