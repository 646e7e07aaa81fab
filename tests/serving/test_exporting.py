"""Exports of saved adapters: the same function in stock PEFT, from the files alone, at the ranks that servers take."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

import lopsided
from lopsided import METHODS, LopsidedError, Method
from lopsided.method.sketch import Sketch, generator
from lopsided.serving import SERVERS, export_adapter
from lopsided.verify import verify
from tests import test_samples as samples
from tests import tiny
from tests.diagonal import diagonal
from tests.serving.adapters import base_of, in_stock_peft, load_base, stock_lora, trained, with_peft

FILE = "adapter_model.safetensors"


def ranks(folder):
    return {name: len(tensor) for name, tensor in load_file(folder / FILE).items() if name.endswith("lora_A.weight")}


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def exported_methods(kind, folder):
    """The folders of all methods' exports, and the logits of the models that they were exported from."""
    expected, folders = [], []
    for name in tiny.ADAPTERS:
        saved, logits = trained(name, kind, folder)
        exported = export_adapter(saved, folder / f"lora-{name}", probe=False)
        assert exported.change.rank == 2 * (3 if METHODS[name].chain else 1)
        assert exported.change.total == 0
        expected.append(logits)
        folders.append(exported.path)
    return folders, expected


@pytest.mark.more
def test_every_method_loads_in_stock_peft(tmp_path):
    folders, expected = exported_methods("bert", tmp_path)
    for name, folder, logits in zip(tiny.ADAPTERS, folders, expected):
        found = with_peft("bert", tmp_path / "bert", folder)
        torch.testing.assert_close(found, logits, atol=2e-5, rtol=0, msg=name)


# tests/test_export.py loads what `to_lora` writes of all methods in such a process, and the next test three exports.
@pytest.mark.more
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_every_method_loads_in_stock_peft_in_a_process_without_lopsided(kind, tmp_path):
    folders, expected = exported_methods(kind, tmp_path)
    for name, found, logits in zip(tiny.ADAPTERS, in_stock_peft(kind, tmp_path / kind, *folders), expected):
        torch.testing.assert_close(found, logits, atol=2e-5, rtol=0, msg=name)


@pytest.mark.more
@pytest.mark.parametrize("kind", ["gpt2", "vit"])
def test_other_architectures_and_layers_that_are_stored_transposed(kind, tmp_path):
    folders, expected = [], []
    for name in ("c3la", "rac_a", "bernoulli"):
        saved, logits = trained(name, kind, tmp_path)
        folders.append(export_adapter(saved, tmp_path / f"lora-{name}", probe=False).path)
        expected.append(logits)
        assert LoraConfig.from_pretrained(str(folders[-1])).fan_in_fan_out == (kind == "gpt2")
    for found, logits in zip(in_stock_peft(kind, tmp_path / kind, *folders), expected):
        close(found, logits)


def test_an_export_from_a_folder_is_what_to_lora_writes(tmp_path):
    saved, _ = trained("rac_b", "bert", tmp_path, rank_pattern={"query": 4}, alpha_pattern={"value": 3})
    model = PeftModel.from_pretrained(load_base("bert", tmp_path / "bert"), str(saved))
    lopsided.to_lora(model, tmp_path / "live")
    export_adapter(saved, tmp_path / "file", probe=False)
    live, file = load_file(tmp_path / "live" / FILE), load_file(tmp_path / "file" / FILE)
    assert live.keys() == file.keys()
    assert all(torch.equal(live[name], file[name]) for name in live)
    one, other = (json.loads((tmp_path / each / "adapter_config.json").read_text()) for each in ("live", "file"))
    for names in ("modules_to_save", "target_modules"):
        assert set(one.pop(names)) == set(other.pop(names))
    assert one == other


@pytest.mark.parametrize(("name", "targets"), [("c3la", ["query"]), ("rac_b", "all-linear"), ("cola", "all-linear")])
def test_neither_the_base_nor_its_folder_is_needed_where_the_files_say_it_all(name, targets, tmp_path, monkeypatch):
    saved, logits = trained(name, "bert", tmp_path, target_modules=targets)
    kept = shutil.move(tmp_path / "bert", tmp_path / "kept")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    exported = export_adapter(saved, tmp_path / "lora")
    assert not exported.probe
    assert exported.notes[-1].startswith("no probe: ")
    assert exported.notes[-1].endswith("name it with --base")
    close(with_peft("bert", kept, exported.path), logits)


def test_widths_that_the_files_leave_open_are_the_bases_which_an_option_names(tmp_path):
    # Windows at the same place in layers of the same height and of two widths: nothing in the files tells them apart.
    saved, logits = trained("c3la", "llama", tmp_path)
    kept = shutil.move(tmp_path / "llama", tmp_path / "kept")
    with pytest.raises(LopsidedError, match=r"is not at hand .*name it with --base"):
        export_adapter(saved, tmp_path / "lora", probe=False)
    assert not (tmp_path / "lora").exists()
    # Its configuration is enough.
    (kept / "model.safetensors").rename(tmp_path / "weights")
    export_adapter(saved, tmp_path / "lora", base=str(kept), probe=False)
    (tmp_path / "weights").rename(kept / "model.safetensors")
    close(with_peft("llama", kept, tmp_path / "lora"), logits)
    with pytest.raises(LopsidedError, match=r"the base has no module named model.layers.0"):
        export_adapter(saved, tmp_path / "other", base=str(base_of("gpt2", tmp_path)), probe=False)


@dataclass(frozen=True)
class Noisy(Sketch):
    """A user's sketch, which a saved adapter holds."""

    def draw(self, r, d, *, seed, link, weight):
        """Draw normal entries."""
        return generator(seed, link).standard_normal((r, d))


@dataclass(frozen=True)
class Rows(Sketch):
    """A sketch that reads W0 and that no file holds."""

    stored = False
    reads_weight = True

    def draw(self, r, d, *, seed, link, weight):
        """Return rows of W0."""
        return np.asarray(weight)[link * r : (link + 1) * r]


@pytest.mark.parametrize(
    ("sketch", "train"), diagonal([Noisy(), lopsided.Singular(), Rows()], ["B", "A", "AB", "coin"], share=2)
)
def test_sketches_of_a_users_own_and_sketches_that_read_the_base(train, sketch, tmp_path):
    method = Method(name="own", train=train, sketch=sketch, chain=lopsided.Chain(links=2), source="this test")
    saved, logits = trained(method, "bert", tmp_path, links=2, target_modules=["query", "intermediate.dense"])
    folder = tmp_path / "lora"
    kept = shutil.move(tmp_path / "bert", tmp_path / "kept")
    reads_base = isinstance(sketch, Rows) and train != "AB"
    if reads_base:
        with pytest.raises(LopsidedError, match=r"is not at hand .*name it with --base"):
            export_adapter(saved, folder, probe=False)
    export_adapter(saved, folder, base=str(kept) if reads_base or train == "coin" else None, probe=False)
    close(with_peft("bert", kept, folder), logits)


def test_chains_that_do_not_merge_and_chains_that_keep_their_sketch(tmp_path):
    for number, options in enumerate(({"merge": False}, {"redraw": False}, {"merge": False, "redraw": False})):
        method = Method(
            name=f"chain{number}",
            train="B",
            sketch=lopsided.Orthonormal(),
            chain=lopsided.Chain(links=2, **options),
            source="this test",
        )
        saved, logits = trained(method, "bert", tmp_path, links=2)
        export_adapter(saved, tmp_path / f"lora{number}", probe=False)
        close(with_peft("bert", tmp_path / "bert", tmp_path / f"lora{number}"), logits)


# -- stock LoRA ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS)
def test_stock_lora_with_patterns_and_square_roots_gets_one_rank_and_a_scale_of_one(server, tmp_path):
    options = {"rank_pattern": {"layers.0.self_attn.q_proj": 6}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True}
    saved, logits = stock_lora("llama", tmp_path, lora_alpha=7, **options)
    exported = export_adapter(saved, tmp_path / "out", server=server, probe=False)
    config = json.loads((exported.path / "adapter_config.json").read_text())
    if server == "peft":
        assert (exported.path / FILE).read_bytes() == (saved / FILE).read_bytes()
    else:
        # vLLM and llama.cpp read one alpha, and neither patterns nor use_rslora.
        assert set(ranks(exported.path).values()) == {8 if server == "vllm" else 6}
        assert config["r"] == config["lora_alpha"] == exported.change.rank
        assert not config["rank_pattern"]
        assert not config["alpha_pattern"]
        assert not config["use_rslora"]
    close(with_peft("llama", tmp_path / "llama", exported.path), logits)


def test_what_is_more_than_plain_lora_is_copied_for_peft_and_refused_otherwise(tmp_path):
    saved, logits = stock_lora("llama", tmp_path, use_dora=True)
    exported = export_adapter(saved, tmp_path / "copy", probe=False)
    close(with_peft("llama", tmp_path / "llama", exported.path), logits)
    for options in ({"server": "vllm"}, {"rank": 2}):
        with pytest.raises(LopsidedError, match="has use_dora=True, more than s·B·A"):
            export_adapter(saved, tmp_path / "out", probe=False, **options)
    config = json.loads((saved / "adapter_config.json").read_text())
    for field, value, words in (
        ("init_lora_weights", "pissa", "starts from other base weights"),
        ("layer_replication", [[0, 2]], "has layer_replication"),
        ("target_parameters", ["mlp.experts"], "has target_parameters"),
        ("r", "4", "r must be int"),
        ("r", 5, "ranks 4 and 4, adapter_config.json says 5"),
        ("r", 0, "rank must be a positive whole number"),
        ("lora_alpha", float("inf"), "alpha must be a finite number"),
        ("rank_pattern", {"(": 4}, "is no regular expression"),
        ("peft_type", "IA3", "adapter of type 'IA3'"),
        ("task_type", "SPELLS", "task_type must be one of"),
    ):
        (saved / "adapter_config.json").write_text(json.dumps({**config, "use_dora": False, field: value}))
        with pytest.raises(LopsidedError, match=words):
            export_adapter(saved, tmp_path / "out", server="vllm", probe=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.more
def test_expressions_of_strangers_have_a_time_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("lopsided.files.patterns.SECONDS", 0.4)
    saved, _ = stock_lora("llama", tmp_path)
    config = json.loads((saved / "adapter_config.json").read_text())
    for field, value in (
        ("target_modules", "(a|a?|.*)+(.*)*(.*)*x"),
        ("exclude_modules", ".*.*.*.*.*.*.*.*.*x"),
        ("rank_pattern", {"((.*)*)*x": 4}),
        ("modules_to_save", ["(.*)+(.*)+(.*)+x"]),
        ("layers_pattern", "((.*)*)*x"),
    ):
        (saved / "adapter_config.json").write_text(json.dumps({**config, field: value}))
        for entrance in (lambda: export_adapter(saved, tmp_path / "out"), lambda: verify(saved)):
            with pytest.raises(LopsidedError, match=f"{field}: .* can't be matched"):
                entrance()


def test_damage_to_a_stock_adapter_is_seen(tmp_path):
    saved, _ = stock_lora("llama", tmp_path)
    tensors = load_file(saved / FILE)
    name = next(iter(tensors))
    for change, words in (
        ({name: torch.full_like(tensors[name], torch.nan)}, "holds NaN or Inf"),
        ({name: tensors[name][:2].clone()}, "factors of ranks"),
        ({name: tensors[name][None].clone()}, "expected matrices"),
    ):
        save_file({**tensors, **change}, saved / FILE, metadata={"format": "pt"})
        with pytest.raises(LopsidedError, match=words):
            export_adapter(saved, tmp_path / "out", server="vllm", probe=False)
    save_file({key: value for key, value in tensors.items() if key != name}, saved / FILE, metadata={"format": "pt"})
    with pytest.raises(LopsidedError, match="alone; expected both"):
        export_adapter(saved, tmp_path / "out", server="vllm", probe=False)
    (saved / FILE).unlink()
    with pytest.raises(LopsidedError, match=r"holds no adapter_model.safetensors"):
        export_adapter(saved, tmp_path / "out", probe=False)


# -- ranks -----------------------------------------------------------------------------------------------------------


def test_recompression_states_the_error_that_it_makes(tmp_path):
    saved, _ = trained("rac_b", "llama", tmp_path, links=4)
    whole = export_adapter(saved, tmp_path / "whole", probe=False)
    small = export_adapter(saved, tmp_path / "small", rank=3, probe=False)
    assert (small.change.was, small.change.rank) == (8, 3)
    before, after = load_file(whole.path / FILE), load_file(small.path / FILE)
    squares = {}
    for name in small.change.layers:
        deltas = [
            t[f"base_model.model.{name}.lora_B.weight"] @ t[f"base_model.model.{name}.lora_A.weight"]
            for t in (before, after)
        ]
        squares[name] = float((deltas[0] - deltas[1]).square().sum()), float(deltas[0].square().sum())
        assert small.change.layers[name] == pytest.approx((squares[name][0] / squares[name][1]) ** 0.5, rel=1e-3)
        tail = torch.linalg.svdvals(deltas[0])[3:].norm()
        assert float((deltas[0] - deltas[1]).norm()) == pytest.approx(float(tail), rel=1e-3)
    lost, total = (sum(pair[at] for pair in squares.values()) for at in (0, 1))
    assert small.change.total == pytest.approx((lost / total) ** 0.5, rel=1e-3)
    record = json.loads((small.path / "export.json").read_text())
    assert record["error"] == small.change.total
    assert record["errors"] == small.change.layers
    # A higher rank than there is loses nothing.
    assert export_adapter(saved, tmp_path / "wide", rank=9, probe=False).change.total == 0
    assert set(ranks(tmp_path / "wide").values()) == {9}


@pytest.mark.parametrize(
    ("links", "r", "served"), [(1, 1, 1), (1, 2, 8), (4, 2, 8), (3, 4, 16), (4, 4, 16), (3, 6, 32)]
)
def test_vllm_gets_a_rank_that_it_serves_by_zeros(links, r, served, tmp_path):
    saved, logits = trained("rac_b", "llama", tmp_path, links=links, r=r)
    exported = export_adapter(saved, tmp_path / "lora", server="vllm", probe=False)
    assert (exported.change.was, exported.change.rank, exported.change.total) == (links * r, served, 0)
    assert set(ranks(exported.path).values()) == {served}
    config = json.loads((exported.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (served, served, None)
    note = [note for note in exported.notes if "above vLLM's default of 16: start it with --max-lora-rank 32" in note]
    assert bool(note) == (served > 16)
    close(with_peft("llama", tmp_path / "llama", exported.path), logits)


def test_a_four_link_chain_of_rank_16_says_what_it_takes_and_what_the_default_would_cost(tmp_path):
    saved, _ = trained("lora", "llama", tmp_path, target_modules=["down_proj"], r=16)
    config = json.loads((saved / "adapter_config.json").read_text())
    assert config["r"] == 16
    chain, _ = trained("cola", "llama", tmp_path, target_modules=["down_proj"], r=16, links=4)
    exported = export_adapter(chain, tmp_path / "lora", server="vllm", probe=False)
    assert exported.change.rank == 64
    [note] = exported.notes
    assert note.startswith(
        "rank 64 is above vLLM's default of 16: start it with --max-lora-rank 64, or export with --rank 16"
    )
    # In a layer that is 16 high nothing is of a higher rank.
    assert export_adapter(chain, tmp_path / "small", server="vllm", rank=16, probe=False).change.total < 1e-6


def test_ranks_that_no_server_serves_are_refused(tmp_path):
    saved, _ = trained("cla", "llama", tmp_path)
    for rank, words in ((12, "vLLM can be started for ranks 1, 8, 16"), (0, "--rank must be at least 1")):
        with pytest.raises(LopsidedError, match=words):
            export_adapter(saved, tmp_path / "out", server="vllm", rank=rank)
    with pytest.raises(LopsidedError, match="vLLM takes ranks up to 512, got 600; recompress with --rank 512"):
        SERVERS["vllm"].served_rank(600)
    with pytest.raises(LopsidedError, match=r"unknown server 'vlm'.*did you mean 'vllm'"):
        export_adapter(saved, tmp_path / "out", server="vlm")


# -- what servers do not take ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["vllm", "sglang", "gguf"])
def test_heads_are_refused_before_anything_is_written(server, tmp_path):
    saved, _ = trained("cla", "bert", tmp_path)
    words = "takes adapters on modules named" if server == "sglang" else "takes no trained heads.*classifier"
    with pytest.raises(LopsidedError, match=words):
        export_adapter(saved, tmp_path / "out", server=server, probe=False)
    assert not (tmp_path / "out").exists()


def test_llama_cpps_converter_would_transpose_what_is_transposed(tmp_path):
    saved, _ = trained("cla", "gpt2", tmp_path)
    with pytest.raises(LopsidedError, match="transposes the factors of layers that store their weights as"):
        export_adapter(saved, tmp_path / "out", server="gguf", probe=False)
    # Square layers, whose shape says nothing; files from before kinds were noted leave it to the base.
    square, _ = trained("lora", "gpt2", tmp_path, target_modules=["attn.c_proj"])
    config = json.loads((square / "adapter_config.json").read_text())
    assert set(config["kinds"].values()) == {"Conv1D"}
    for noted in (config["kinds"], None):
        (square / "adapter_config.json").write_text(json.dumps({**config, "kinds": noted}))
        with pytest.raises(LopsidedError, match="transposes the factors"):
            export_adapter(square, tmp_path / "out", server="gguf", probe=False)
    shutil.rmtree(tmp_path / "gpt2")
    with pytest.raises(LopsidedError, match="is needed for how its layers store their weights, and is not at hand"):
        export_adapter(square, tmp_path / "out", server="gguf", probe=False)


def test_sglang_reads_names_and_no_expression(tmp_path):
    saved, _ = trained("cla", "llama", tmp_path, target_modules=["q_proj"])
    exported = export_adapter(saved, tmp_path / "out", server="sglang", probe=False)
    config = json.loads((exported.path / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]


def test_embeddings_that_peft_saves_along_are_left_to_the_base(tmp_path):
    saved, logits = trained("rac_b", "llama", tmp_path, target_modules=["lm_head", "q_proj"])
    tensors = load_file(saved / FILE)
    assert any(name.endswith(".base_layer.weight") for name in tensors)
    exported = export_adapter(saved, tmp_path / "out", server="vllm", probe=False)
    assert not [name for name in load_file(exported.path / FILE) if "base_layer" in name]
    close(with_peft("llama", tmp_path / "llama", exported.path), logits)


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*was saved without a manifest")
def test_files_of_version_0_1_0_export(tmp_path):
    """Their names are of another schema, they hold no manifest, and there is no base to ask."""
    expected = load_file(samples.FOLDER / "expected.safetensors")
    for name in samples.ADAPTERS:
        export_adapter(samples.FOLDER / "adapters" / name, tmp_path / name, probe=False)
        net, x = samples.base()
        lora = PeftModel.from_pretrained(net, str(tmp_path / name)).eval()
        torch.testing.assert_close(lora(x), expected[name], atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.filterwarnings("ignore:.*was saved without a manifest")
def test_a_run_that_has_moved_exports_without_its_task_and_from_any_folder(tmp_path, monkeypatch):
    # Its record says "model" and "task", relative to a folder of long ago.
    shutil.copytree(samples.FOLDER / "runs" / "asym_b", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    exported = export_adapter(tmp_path / "run")
    assert exported.path == tmp_path / "run" / "lora"
    assert [note.partition(":")[0] for note in exported.notes] == ["no probe"]
    with_base = export_adapter(tmp_path / "run", base=str(samples.FOLDER / "model"))
    assert with_base.probe
    for name, trains in (("full", "all weights"), ("head", "the head alone")):
        with pytest.raises(LopsidedError, match=f"trains {trains} and has no low-rank terms"):
            export_adapter(samples.FOLDER / "runs" / name, tmp_path / "out")


def test_damage_to_an_adapter_of_ours_is_seen(tmp_path):
    saved, _ = trained("cla", "bert", tmp_path, target_modules=["query"])
    data = (saved / FILE).read_bytes()
    for place in (len(data) // 2, len(data) - 1):
        (saved / FILE).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(LopsidedError, match="damaged"):
            export_adapter(saved, tmp_path / "out", probe=False)
    (saved / FILE).write_bytes(data)
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, "alpha": 64.0}))
    with pytest.raises(LopsidedError, match="r and alpha that they were saved with"):
        export_adapter(saved, tmp_path / "out", probe=False)


@pytest.fixture
def adapter(tmp_path):
    return trained("cla", "bert", tmp_path, target_modules=["query"])[0]


def test_an_export_replaces_an_earlier_one_and_nothing_else(adapter, tmp_path):
    out = tmp_path / "lora"
    first = export_adapter(adapter, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "adapter_config.json", FILE, "export.json", "probe.json",
    ]  # fmt: skip
    assert first.probe
    # A probe of the earlier one does not stay behind.
    export_adapter(adapter, out, rank=1, probe=False)
    assert not (out / "probe.json").exists()
    assert set(ranks(out).values()) == {1}
    for name in ("README.md", FILE):
        kept = (out / name).read_bytes()
        (out / name).write_bytes(kept + b" ")
        with pytest.raises(LopsidedError, match=f"holds {name}, changed since it was exported"):
            export_adapter(adapter, out, probe=False)
        assert (out / name).read_bytes() == kept + b" "
        (out / name).write_bytes(kept)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(LopsidedError, match=r"holds notes\.txt, which would be lost"):
        export_adapter(adapter, out, probe=False)
    assert set(ranks(out).values()) == {1}
    assert not list(tmp_path.glob(".lora*"))


def test_no_adapter_is_overwritten(adapter, tmp_path):
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    (tmp_path / "link").symlink_to(adapter)
    for out in (adapter, tmp_path / "link", adapter.parent):
        with pytest.raises(LopsidedError, match="is where the adapter itself lies, which would be lost"):
            export_adapter(adapter, out, probe=False)
    stock, _ = stock_lora("llama", tmp_path)
    for out in (trained("rcla", "bert", tmp_path)[0], stock):
        with pytest.raises(LopsidedError, match="which no export has written, and which would be lost"):
            export_adapter(adapter, out, probe=False)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before


def test_a_link_leads_to_the_new_export_and_stays(adapter, tmp_path):
    (tmp_path / "disk").mkdir()
    for target in ("there", "not-yet"):
        link = tmp_path / f"link-{target}"
        link.symlink_to(tmp_path / "disk" / target)
        if target == "there":
            export_adapter(adapter, tmp_path / "disk" / target, rank=1, probe=False)
        export_adapter(adapter, link, probe=False)
        assert link.is_symlink()
        assert set(ranks(tmp_path / "disk" / target).values()) == {2}
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["not-yet", "there"]
    assert not list(tmp_path.glob(".link*"))


@pytest.mark.parametrize("call", ["safetensors.torch.serialize_file", "lopsided.serving.exporting.write_record"])
def test_an_export_that_fails_leaves_the_earlier_one(adapter, tmp_path, monkeypatch, call):
    export_adapter(adapter, tmp_path / "lora")
    before = {path.name: path.read_bytes() for path in (tmp_path / "lora").iterdir()}

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_adapter(adapter, tmp_path / "lora", rank=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "lora").iterdir()} == before
    assert not list(tmp_path.glob(".lora*"))


def test_a_base_of_another_size_is_seen_by_its_shapes(tmp_path):
    saved, _ = trained("c3la", "llama", tmp_path)
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide" / "config.json").write_text(json.dumps({**config, "intermediate_size": 32}))
    with pytest.raises(
        LopsidedError, match="the base is another one: the adapter was saved on 2 weights of shape 16x24"
    ):
        export_adapter(saved, tmp_path / "lora", base=str(tmp_path / "wide"), probe=False)


@pytest.mark.parametrize(("kind", "name"), diagonal(["convolution", "embedding"], ["c3la", "rac_a", "cola"], share=2))
def test_layers_that_are_not_linear_go_to_peft_alone_and_take_the_bases_configuration(kind, name, tmp_path):
    if kind == "convolution":
        saved, logits = trained(name, "vit", tmp_path, target_modules=["projection", "q_proj"])
        model, what = "vit", "lora_A.weight"
    else:
        saved, logits = trained(name, "llama", tmp_path, target_modules=["embed_tokens", "q_proj"])
        model, what = "llama", "lora_embedding_A"
    export_adapter(saved, tmp_path / "lora", probe=False)
    tensors = load_file(tmp_path / "lora" / FILE)
    assert any(key.endswith(what) and ("projection" in key or "embed" in key) for key in tensors)
    close(with_peft(model, tmp_path / model, tmp_path / "lora"), logits)
    # Truncated to the rank that there is: the same function, in the same form.
    export_adapter(saved, tmp_path / "again", rank=6, probe=False)
    close(with_peft(model, tmp_path / model, tmp_path / "again"), logits)
    with pytest.raises(LopsidedError, match="exports to vLLM are of linear layers; got"):
        export_adapter(saved, tmp_path / "out", server="vllm", probe=False)
    shutil.rmtree(tmp_path / model)
    with pytest.raises(LopsidedError, match="is not at hand"):
        export_adapter(saved, tmp_path / "out", probe=False)


def saved_experts(folder: Path) -> MixtralForCausalLM:
    """Save a small Mixtral and an adapter that has learned on its experts, and return the model without it."""
    config = MixtralConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=24,
        vocab_size=40, num_local_experts=2,
    )  # fmt: skip
    torch.manual_seed(0)
    base = MixtralForCausalLM(config)
    base.save_pretrained(folder / "base")
    base = MixtralForCausalLM.from_pretrained(folder / "base").eval()
    model = lopsided.adapt(
        copy.deepcopy(base), "cla", r=2, target_modules=["q_proj", "gate_proj", "up_proj", "down_proj"]
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    model.save_pretrained(folder / "experts")
    return base


def test_experts_are_exported_to_peft_on_their_base(tmp_path):
    base = saved_experts(tmp_path)
    # Two parts of one parameter have a rank of their own, which no field says.
    assert "all equal" in verify(tmp_path / "experts")["checks"]["hashes"]
    exported = export_adapter(tmp_path / "experts", tmp_path / "out")
    assert exported.change.rank == 4
    assert exported.probe
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        ours = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "experts")).eval()(ids).logits
        stock = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "out")).eval()(ids).logits
        assert not torch.allclose(ours, base(ids).logits, atol=1e-2)
    torch.testing.assert_close(stock, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{"server": "vllm"}, {"rank": 8}])
def test_experts_are_refused_by_name_where_ranks_change(options, tmp_path):
    saved_experts(tmp_path)
    with pytest.raises(LopsidedError, match=r"as experts are; .*--for peft without --rank"):
        export_adapter(tmp_path / "experts", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
