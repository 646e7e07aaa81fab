"""One test for each promise of SECURITY.md about adapters from strangers, under the promise's name."""

from __future__ import annotations

import json
import pickle
import re
import struct
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, PeftConfig, PeftModel
from safetensors.torch import load_file, save_file

import lopsided
from lopsided import LopsidedConfig, LopsidedError
from lopsided.tuner import layers_of
from lopsided.verify import verify
from tests import tiny

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
MANIFEST = "base_model.model.lopsided_manifest"


@pytest.fixture
def adapter(tmp_path):
    """The folder of a trained adapter."""
    return saved(tmp_path / "adapter")


def saved(folder: Path, name="cla", seed=0, **options) -> Path:
    model = lopsided.adapt(tiny.bert(seed), name, r=2, target_modules=["query"], **options)
    tiny.train_a_little(model)
    model.eval().save_pretrained(folder)
    return folder


def configure(folder: Path, **fields) -> None:
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(values | fields))


def retensor(folder: Path, change, *, hashed: bool) -> None:
    """Change the tensors; without the manifest, where other checks than the hashes shall see it."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / FILE).items()}
    change(tensors)
    if not hashed:
        del tensors[MANIFEST]
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def refused(folder: Path, words: str, *, verified: bool = True) -> None:
    """Every entrance refuses the folder with one line, and takes no memory to speak of."""
    live = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    entrances = [
        lambda: PeftModel.from_pretrained(tiny.bert(), str(folder)),
        lambda: live.load_adapter(str(folder), "new"),
        lambda: live.load_adapter(str(folder), "default"),
    ]
    for entrance in [*entrances, lambda: verify(folder)] if verified else entrances:
        with pytest.raises(LopsidedError, match=words) as caught:
            entrance()
        assert "\n" not in str(caught.value)
    assert list(live.peft_config) == ["default"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in live.state_dict().items())


class Bomb:
    """What runs when a pickle is opened."""

    def __reduce__(self):
        return (sys.exit, ("a pickle was opened",))


def test_every_promise_has_its_test():
    text = (Path(__file__).parents[1] / "SECURITY.md").read_text()
    promised = re.findall(r"^- \*\*(\w+)\*\*: ", text, flags=re.MULTILINE)
    tested = [name.removeprefix("test_") for name in globals() if name.startswith("test_")]
    assert sorted(promised) == sorted(set(tested) - {"every_promise_has_its_test"})
    assert len(promised) == len(set(promised)) == 16


def test_pickle(adapter, tmp_path):
    (adapter / FILE).unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(adapter, r"adapter_model\.bin, a pickle, which can run code")
    # From the hub, too: here, what the hub's cache holds.
    snapshot = tmp_path / "hub" / "models--stranger--adapter" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    adapter.rename(snapshot)
    live = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
    for load in (
        lambda: PeftModel.from_pretrained(tiny.bert(), "stranger/adapter", cache_dir=str(tmp_path / "hub")),
        lambda: live.load_adapter("stranger/adapter", "new", cache_dir=str(tmp_path / "hub")),
        lambda: live.load_adapter("stranger/adapter", "default", cache_dir=str(tmp_path / "hub")),
    ):
        with pytest.raises(LopsidedError, match=f"no {FILE} there.*expected safetensors"):
            load()
    with pytest.raises(LopsidedError, match="safe_serialization=False would write a pickle"):
        live.save_pretrained(tmp_path / "written", safe_serialization=False)
    assert not (tmp_path / "written").exists()


def test_import(adapter, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    mapping = {"parent_library": "evil_module", "base_model_class": "Model"}
    configure(adapter, auto_mapping=mapping, task_type=None)
    refused(adapter, "auto_mapping would import 'evil_module'; expected a class of transformers")
    for entrance in (AutoPeftModel.from_pretrained, PeftConfig.from_pretrained, LopsidedConfig.from_pretrained):
        with pytest.raises(LopsidedError, match="would import 'evil_module'"):
            entrance(str(adapter))
    assert "evil_module" not in sys.modules
    # None is written either: the class of this network is in this very module.
    model = lopsided.adapt(tiny.mlp(), "cla", r=2, target_modules=["up"])
    model.save_pretrained(tmp_path / "own")
    assert json.loads((tmp_path / "own" / CONFIG).read_text())["auto_mapping"] is None


@pytest.mark.parametrize(
    ("sketch", "words"),
    [
        ({"kind": "os.system", "command": "true"}, "a sketch's kind is a class's name, got 'os.system'"),
        ({"kind": "Stored", "fields": []}, "a sketch's kind is a class's name, got 'Stored'"),
        ({"kind": "Gaussian", "std": {"__import__": "os"}}, "std must be a name or a number"),
        ({"kind": "Gaussian", "std": "wide"}, "std must be float | None, got 'wide'"),
        ({"kind": ["Window"]}, "a sketch's kind"),
        ({"kind": "Window", "order": "sideways"}, "order must be"),
        ({"kind": "Window", "order": "fixed", "hook": "x"}, "fields"),
        ("Window", "sketch must be an object"),
    ],
)
def test_parts(adapter, sketch, words):
    parts = json.loads((adapter / CONFIG).read_text())["parts"]
    configure(adapter, parts=parts | {"sketch": sketch})
    refused(adapter, re.escape(words))
    # A name that nobody has registered is data: the file must then hold the sketch itself.
    configure(adapter, parts=parts | {"sketch": {"kind": "system"}})
    assert LopsidedConfig.from_pretrained(str(adapter)).as_method().sketch.parts() == {"kind": "system"}


@pytest.mark.parametrize(
    "fields",
    [
        {"r": "8"},
        {"r": 2.5},
        {"r": True},
        {"alpha": "8"},
        {"alpha": []},
        {"dropout": None},
        {"target_modules": 7},
        {"target_modules": [["query"]]},
        {"rank_pattern": ["query"]},
        {"rank_pattern": {"query": "2"}},
        {"modules_to_save": "classifier"},
        {"layers_to_transform": "0"},
        {"parts": []},
        {"parts": {}},
        {"method": 3},
        {"base": "16x16"},
        {"base": [16]},
        {"base": ["16x16 F32 ????", "16x16"]},
        {"link": "0"},
        {"task_type": "SPELLS"},
        {"auto_mapping": "transformers"},
        {"schema": 3},
        {"schema": 0},
        {"schema": "1"},
        {"allow_base_mismatch": "yes"},
    ],
)
def test_types(adapter, fields):
    configure(adapter, **fields)
    # A live adapter keeps its own configuration, but what comes with the tensors is read all the same.
    refused(adapter, next(iter(fields)) + "|parts|fingerprint")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"r": 10**9}, "rank must not exceed the layer's width: r=1000000000|r, scale, number of layers"),
        ({"r": 2**31}, "rank must be a positive whole number below"),
        ({"r": 10**400}, "r must be int"),
        ({"rank_pattern": {"query": 10**9}}, "rank must not exceed|r, scale, number of layers"),
        ({"alpha": 10**400}, "alpha must be float"),
        ({"link": 10**9}, "link must lie between 0 and 1000000"),
        ({"link": -1}, "link must lie between 0"),
        ({"seed": 10**30}, "seed must be int"),
        ({"links": 10**9, "method": "c3la", "parts": None}, "links must lie between 0 and 1000000"),
    ],
)
def test_numbers(adapter, fields, words):
    configure(adapter, **fields)
    started = time.monotonic()
    with pytest.raises(LopsidedError, match=words):
        PeftModel.from_pretrained(tiny.bert(), str(adapter))
    with pytest.raises(LopsidedError, match=words):
        verify(adapter)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{}" + b" " * 6,
        json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}).encode(),
        b'{"a": ' * 10_000,
    ],
)
def test_sizes(adapter, header):
    for length in (len(header), 2**63 - 1, 2**40):
        (adapter / FILE).write_bytes(struct.pack("<Q", length) + header + bytes(8))
        refused(adapter, "the file is damaged")


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000, "{" + " " * 2**26, '{"r": ' + "9" * 5000 + "}", "{", "[]"]
)
def test_json(adapter, text):
    live = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
    (adapter / CONFIG).write_text(text)
    with pytest.raises(LopsidedError, match=r"is not JSON|bytes, expected at most|is a JSON list"):
        verify(adapter)
    with pytest.raises(LopsidedError, match=r"is not JSON|bytes, expected at most|is a JSON list"):
        live.load_adapter(str(adapter), "default")


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "(a|a?|.*)+(.*)*(.*)*x"},
        {"exclude_modules": ".*.*.*.*.*.*.*.*.*x"},
        {"rank_pattern": {"((.*)*)*x": 2}},
        {"alpha_pattern": {"(": 2.0}},
        {"modules_to_save": ["(.*)+(.*)+(.*)+x"]},
        {"layers_pattern": "((.*)*)*x", "layers_to_transform": [0]},
        {"target_modules": "(" * 5000 + ")" * 5000},
    ],
)
def test_patterns(adapter, fields, monkeypatch):
    monkeypatch.setattr(lopsided.files.patterns, "SECONDS", 0.4)
    configure(adapter, **fields)
    started = time.monotonic()
    for entrance in (lambda: PeftModel.from_pretrained(tiny.bert(), str(adapter)), lambda: verify(adapter)):
        with pytest.raises(LopsidedError, match=f"{next(iter(fields))}: .*(can't be matched|is no regular expression)"):
            entrance()
    assert time.monotonic() - started < 30


def test_paths(adapter, tmp_path):
    for name in ("../up", "a/b", "a\\b", "..", ".", "a.b", "", "keys", "train", "a\0b"):
        for entrance in (
            lambda name=name: PeftModel.from_pretrained(tiny.bert(), str(adapter), adapter_name=name),
            lambda name=name: lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"], adapter_name=name),
            lambda name=name: lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"]).load_adapter(
                str(adapter), name
            ),
        ):
            with pytest.raises(LopsidedError, match="can't name a folder and a parameter"):
                entrance()
    model = tmp_path / "model"
    tiny.bert().save_pretrained(model)
    (model / "model.safetensors").rename(tmp_path / "outside.safetensors")
    names = list(load_file(tmp_path / "outside.safetensors"))
    for shard in (
        "../outside.safetensors",
        str(tmp_path / "outside.safetensors"),
        "..\\outside.safetensors",
        "a.bin",
        "",
    ):
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(LopsidedError, match="leaves the folder or is no safetensors file"):
            verify(model)


def test_damage(adapter):
    data = (adapter / FILE).read_bytes()
    for place in (0, 9, 60, len(data) // 3, len(data) // 2, len(data) - 1):
        (adapter / FILE).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        refused(adapter, "damaged|no place for|lacks")
    for length in (0, 7, 100, len(data) - 1):
        (adapter / FILE).write_bytes(data[:length])
        refused(adapter, "damaged or cut off")
    (adapter / FILE).unlink()
    refused(adapter, f"holds no {FILE}")


def test_shards(tmp_path):
    tiny.bert().save_pretrained(tmp_path, max_shard_size="10KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert verify(tmp_path)["kind"] == "model"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first = next(iter(index["weight_map"]))
    for weight_map, words in (
        (index["weight_map"] | {"more": files[0].name}, "disagree about tensor 'more'"),
        (
            {key: value for key, value in index["weight_map"].items() if key != first},
            f"disagree about tensor '{first}'",
        ),
        ({}, "weight_map must name a file for each tensor"),
        ({first: 7}, "weight_map must name a file"),
    ):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index | {"weight_map": weight_map}))
        with pytest.raises(LopsidedError, match=re.escape(words)):
            verify(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-1])
    with pytest.raises(LopsidedError, match="damaged or cut off"):
        verify(tmp_path)
    files[1].unlink()
    with pytest.raises(LopsidedError, match=f"lacks {files[1].name}, one of the {len(files)} files"):
        verify(tmp_path)


@pytest.mark.filterwarnings("ignore::lopsided.LopsidedWarning")
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("what", ["lopsided_B.weight", "classifier.weight"])
def test_finite(adapter, what, number):
    def spoil(tensors):
        name = next(name for name in tensors if name.endswith(what))
        tensors[name].view(-1)[3] = number

    retensor(adapter, spoil, hashed=True)
    refused(adapter, "damaged")
    retensor(adapter, lambda tensors: None, hashed=False)
    refused(adapter, f"{what.split('.')[0]}.* holds NaN or Inf", verified=False)


def test_method(tmp_path):
    """The names and shapes of these files fit the live adapter, a `cla` of r=2 and alpha=4."""
    for number, options in enumerate(({"name": "rcla"}, {"alpha": 8.0}, {"use_rslora": True})):
        folder = saved(tmp_path / str(number), **options)
        live = lopsided.adapt(tiny.bert(), "cla", r=2, target_modules=["query"])
        before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
        assert {load_file(folder / FILE)[name].shape for name in load_file(folder / FILE) if "_B" in name} == {(16, 2)}
        with pytest.raises(LopsidedError, match="that they were saved with"):
            live.load_adapter(str(folder), "default")
        assert all(torch.equal(tensor, before[name]) for name, tensor in live.state_dict().items())
        # Nor does an edited configuration turn them into others.
        configure(folder, alpha=64.0)
        with pytest.raises(LopsidedError, match="r and alpha that they were saved with"):
            PeftModel.from_pretrained(tiny.bert(), str(folder))
        with pytest.raises(LopsidedError, match="r and alpha that they were saved with"):
            verify(folder)


def test_base(tmp_path):
    folder = saved(tmp_path / "adapter", seed=1)
    refused(folder, "the base model is another one", verified=False)
    PeftModel.from_pretrained(tiny.bert(), str(folder), allow_base_mismatch=True)
    configure(folder, allow_base_mismatch=True)
    refused(folder, "allow_base_mismatch, which only the caller may")


def test_refusals(adapter, tmp_path):
    live = lopsided.adapt(tiny.bert(), "c3la", r=2, target_modules=["query"], links=3)
    optimizer = tiny.train_a_little(live)
    live.save_pretrained(tmp_path / "start")
    lopsided.advance_chain(live, optimizer)
    tiny.run_steps(live, optimizer, 2)
    before, link = tiny.logits(live.eval()), live.peft_config["default"].link
    # The last layer of the file is the one that is damaged.
    retensor(tmp_path / "start", lambda t: t[max(n for n in t if n.endswith("_B.weight"))].add_(1), hashed=True)
    for name in ("default", "new"):
        with pytest.raises(LopsidedError, match="damaged"):
            live.load_adapter(str(tmp_path / "start"), name)
    assert torch.equal(tiny.logits(live), before)
    assert {layer.adapters["default"].link for layer in layers_of(live).values()} == {link} == {1}
    assert live.peft_config["default"].link == 1
    base = tiny.bert()
    modules, logits = [name for name, _ in base.named_modules()], tiny.logits(base)
    with pytest.raises(LopsidedError, match="damaged"):
        PeftModel.from_pretrained(base, str(tmp_path / "start"))
    assert [name for name, _ in base.named_modules()] == modules
    assert torch.equal(tiny.logits(base), logits)
    assert torch.equal(
        tiny.logits(PeftModel.from_pretrained(base, str(adapter))),
        tiny.logits(PeftModel.from_pretrained(tiny.bert(), str(adapter))),
    )


def test_saves(adapter, monkeypatch):
    """`tests/test_saves.py` lets every call of a save fail, and `tests/faults` kills runs; this is one of them."""
    model = PeftModel.from_pretrained(tiny.bert(), str(adapter), is_trainable=True)
    expected = tiny.logits(model.eval())
    tiny.train_a_little(model)
    monkeypatch.setattr("safetensors.torch.serialize_file", lambda *args, **kwargs: sys.exit("killed"))
    with pytest.raises(SystemExit):
        model.save_pretrained(adapter)
    assert torch.equal(tiny.logits(PeftModel.from_pretrained(tiny.bert(), str(adapter))), expected)
