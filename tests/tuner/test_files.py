"""Saved adapters: what loads, what is refused, and what other loaders do with them."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import lopsided
from lopsided import METHODS, LopsidedError
from lopsided.files.manifest import KEY, seal, unseal
from lopsided.tuner import layers_of
from lopsided.tuner.adapter import Adapter
from tests import tiny

FILE = "adapter_model.safetensors"
MANIFEST = f"base_model.model.{KEY}"


def saved(folder, name="c3la", links=3, **options):
    """A trained (and, with a chain, twice advanced) adapter of a tiny BERT in `folder`."""
    links = links if METHODS[name].chain else None
    model = lopsided.adapt(tiny.bert(), name, r=2, target_modules=["query", "dense"], links=links, **options)
    optimizer = tiny.train_a_little(model)
    if METHODS[name].chain:
        for _ in range(2):
            lopsided.advance_chain(model, optimizer)
            tiny.run_steps(model, optimizer, 2)
    model.eval()
    model.save_pretrained(folder)
    return model


def rewrite(folder, change) -> None:
    """Change a saved adapter's tensors, with hashes that fit, as somebody with an editor would."""
    config = lopsided.LopsidedConfig.from_pretrained(str(folder))
    manifest, tensors = unseal(load_file(folder / FILE))
    scales = [(r, s) for r, s, count in manifest.scales for _ in range(count)]
    change(tensors)
    tensors[MANIFEST] = seal(tensors, config.as_method(), scales)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_a_saved_adapter_is_the_same_function_in_a_transformers_model(name, tmp_path):
    model = saved(tmp_path, name)
    expected = tiny.logits(model)
    loaded = PeftModel.from_pretrained(tiny.bert(), str(tmp_path))
    assert torch.equal(tiny.logits(loaded), expected)
    assert torch.equal(
        tiny.logits(PeftModel.from_pretrained(tiny.bert(), str(tmp_path), low_cpu_mem_usage=True)), expected
    )
    base = tiny.bert()
    with loaded.disable_adapter():
        for module, layer in layers_of(loaded).items():
            plain = base.get_submodule(module.removeprefix("base_model.model."))
            assert torch.equal(layer.base_layer.weight, plain.weight)


def test_the_file_holds_parts_not_only_a_name(tmp_path):
    saved(tmp_path, "rc3la")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LOPSIDED"
    assert config["schema"] == 2
    assert config["link"] == 2
    assert config["parts"]["sketch"] == {"kind": "Window", "order": "shuffled"}
    assert config["parts"]["chain"]["links"] == 3
    # A reader that never heard of the name still has the parts.
    config["method"] = config["parts"]["name"] = "gone"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model = PeftModel.from_pretrained(tiny.bert(), str(tmp_path))
    assert layers_of(model)


def test_links_seeds_and_windows_come_from_the_tensors(tmp_path):
    model = saved(tmp_path, "rc3la", seed=5)
    expected = tiny.logits(model)
    # A live adapter of another seed, at another link, becomes the saved one.
    live = lopsided.adapt(tiny.bert(), "rc3la", r=2, target_modules=["query", "dense"], links=3, seed=1).eval()
    lopsided.advance_chain(live, tiny.train_a_little(live))
    live.eval()
    live.load_adapter(str(tmp_path), "default")
    assert torch.equal(tiny.logits(live), expected)
    seeds = {layer.adapters["default"].seed for layer in layers_of(model).values()}
    assert {layer.adapters["default"].seed for layer in layers_of(live).values()} == seeds
    # And back to link 0.
    start = lopsided.adapt(tiny.bert(), "rc3la", r=2, target_modules=["query", "dense"], links=3, seed=5).eval()
    start.save_pretrained(tmp_path / "start")
    live.load_adapter(str(tmp_path / "start"), "default")
    assert torch.equal(tiny.logits(live), tiny.logits(start))
    assert live.peft_config["default"].link == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({_query(t, "A.weight"): torch.zeros(2, 16)}), "no place for"),
        (lambda t: t.update({_query(t, "future"): torch.zeros(1)}), "no place for"),
        (lambda t: t.update({"base_model.model.bert.nowhere.lopsided_B.weight": torch.zeros(2)}), "no place for"),
        (lambda t: t.pop(_query(t, "state.seed")), "lacks lopsided_state.seed of 1 of"),
        (lambda t: t.pop(_query(t, "state.checksum")), "lacks lopsided_state.checksum of 1 of"),
        (lambda t: t.update({_query(t, "state.past_B"): torch.zeros(1, 16, 2)}), "past links"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change, words, tmp_path):
    saved(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(LopsidedError, match=words):
        PeftModel.from_pretrained(tiny.bert(), str(tmp_path))


def _query(tensors, what: str) -> str:
    [name] = [n for n in tensors if "layer.0" in n and n.endswith("query.lopsided_B.weight")]
    return name.replace("B.weight", what)


@pytest.mark.parametrize("name", ["rac_b", "asym_b", "lora"])
def test_a_redrawn_sketch_is_checked(name, tmp_path):
    saved(tmp_path, name)
    rewrite(tmp_path, lambda t: t.update({_query(t, "state.seed"): torch.tensor([7])}))
    with pytest.raises(LopsidedError, match="checksum"):
        PeftModel.from_pretrained(tiny.bert(), str(tmp_path))


@pytest.mark.parametrize("name", ["asym_b", "rac_a"])
def test_a_live_adapter_of_another_seed_draws_the_files_sketches(name, tmp_path):
    model = saved(tmp_path, name, seed=5)
    live = saved(tmp_path / "live", name, seed=1)
    live.load_adapter(str(tmp_path), "default")
    assert torch.equal(tiny.logits(live), tiny.logits(model))


@pytest.mark.parametrize(("name", "links"), [("asym_b", 1), ("rac_b", 3)])
def test_each_sketch_is_drawn_once_in_a_load(name, links, tmp_path, monkeypatch):
    saved(tmp_path, name)
    drawn, draw = [], Adapter.draw
    monkeypatch.setattr(
        Adapter, "draw", lambda self, link, W0: drawn.append((self.module, link)) or draw(self, link, W0)
    )
    model = PeftModel.from_pretrained(tiny.bert(), str(tmp_path))
    modules = [name.removeprefix("base_model.model.") for name in layers_of(model)]
    assert sorted(drawn) == sorted((module, link) for module in modules for link in range(links))
    # Nor is it drawn again where it is known already.
    drawn.clear()
    model.load_adapter(str(tmp_path), "default")
    assert drawn == []


def test_another_methods_file_over_a_live_adapter_is_refused(tmp_path):
    saved(tmp_path, "asym_a")
    live = lopsided.adapt(tiny.bert(), "asym_b", r=2, target_modules=["query", "dense"])
    with pytest.raises(LopsidedError, match="no place for"):
        live.load_adapter(str(tmp_path), "default")


def test_a_newer_schema_is_refused(tmp_path):
    saved(tmp_path, "cla")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "schema": 99}))
    with pytest.raises(LopsidedError, match="schema 99"):
        PeftModel.from_pretrained(tiny.bert(), str(tmp_path))


def test_singular_sketches_are_stored_with_the_adapter(tmp_path):
    method = lopsided.Method(name="svd_b", train="B", sketch=lopsided.Singular(), source="test")
    model = lopsided.adapt(tiny.bert(), method, r=2, target_modules=["query"])
    tiny.train_a_little(model)
    model.eval()
    model.save_pretrained(tmp_path)
    assert _query(load_file(tmp_path / FILE), "state.sketch") in load_file(tmp_path / FILE)
    # On another base the vectors would be others; the stored ones are used.
    other = PeftModel.from_pretrained(tiny.bert(seed=1), str(tmp_path), allow_base_mismatch=True)
    first, second = (next(iter(layers_of(m).values())).frozen["default"].sketch for m in (model, other))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["asym_b", "rac_b", "c3la", "bernoulli", "cola"])
def test_transformers_own_loader(name, tmp_path):
    # The head is PEFT's to save and transformers' to load; the encoder's outputs show the adapter.
    model = saved(tmp_path, name)
    base = tiny.bert()
    base.load_adapter(str(tmp_path))
    ids = tiny.inputs(base)
    ours = model.base_model.model.bert(**ids).last_hidden_state
    torch.testing.assert_close(base.bert(**ids).last_hidden_state, ours)


def test_files_are_small(tmp_path):
    sizes = {}
    for name in ("lora", "asym_b", "cla"):
        model = lopsided.adapt(tiny.gpt2(), name, r=4, target_modules=["c_fc"])
        model.save_pretrained(tmp_path / name)
        tensors = load_file(tmp_path / name / FILE)
        sizes[name] = sum(t.numel() * t.element_size() for key, t in tensors.items() if key != MANIFEST)
    # c_fc maps 16 to 64: B alone is 64/(64 + 16) of both.
    assert sizes["asym_b"] / sizes["lora"] == pytest.approx(0.8, abs=0.02)
    assert sizes["cla"] - sizes["asym_b"] == 2 * 4 * 4
