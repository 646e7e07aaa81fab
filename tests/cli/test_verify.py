"""`lopsided verify`: adapters, runs and models; what it prints, and how it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

import lopsided as library
from tests import tiny as models
from tests.cli.commands import assert_one_line

FILE = "adapter_model.safetensors"


@pytest.fixture
def folders(tmp_path):
    """A base model, another one, and an adapter at link 1 that was trained on the first."""
    for seed, name in enumerate(("base", "other")):
        models.bert(seed).save_pretrained(tmp_path / name)
    model = library.adapt(models.bert(), "rac_b", r=2, target_modules=["query"], links=3)
    optimizer = models.train_a_little(model)
    library.advance_chain(model, optimizer)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path


def test_an_adapter(cli, folders):
    outcome = cli("verify", folders / "adapter")
    assert outcome.status == 0
    assert outcome.err == ""
    for words in ("adapter, no fault found", "schema 2, rac_b, r=2, link 1", "in 2 layers", "all equal", "torch 2."):
        assert words in outcome.out
    report = json.loads(cli("verify", folders / "adapter", "--json").out)
    assert report["kind"] == "adapter"
    assert report["checks"]["base"] == "2 fingerprints; pass --base to compare them"
    assert report["notes"] == []
    tensors = len(load_file(folders / "adapter" / FILE)) - 1
    assert report["checks"]["hashes"] == f"{tensors}, all equal"


def test_an_adapter_on_its_base(cli, folders):
    outcome = cli("verify", folders / "adapter", "--base", folders / "base")
    assert outcome.status == 0
    assert "2 layers in F32, compared; the adapter loads" in outcome.out
    assert_one_line(
        cli("verify", folders / "adapter", "--base", folders / "other"),
        "the base model is another one: 2 of 2 layers differ",
    )
    allowed = cli("verify", folders / "adapter", "--base", folders / "other", "--allow-base-mismatch")
    assert allowed.status == 0
    assert "not compared" in allowed.out


def test_a_head_of_another_size_is_no_other_base(cli, folders):
    from transformers import AutoModelForSequenceClassification

    two = AutoModelForSequenceClassification.from_pretrained(
        folders / "base", num_labels=2, ignore_mismatched_sizes=True
    )
    two.save_pretrained(folders / "two")
    assert "the adapter loads" in cli("verify", folders / "adapter", "--base", folders / "two").out


def test_a_redrawn_sketch_is_compared_with_the_base_at_hand(cli, folders):
    """Hashes that fit, and a seed that is another one: only drawing the sketch again shows it."""
    from lopsided.files.manifest import KEY, seal, unseal

    config = library.LopsidedConfig.from_pretrained(str(folders / "adapter"))
    _, tensors = unseal(load_file(folders / "adapter" / FILE))
    name = next(name for name in tensors if name.endswith("lopsided_state.seed"))
    tensors[name] = tensors[name] + 1
    tensors[f"base_model.model.{KEY}"] = seal(tensors, config.as_method(), [(2, 2.0)] * 2)
    save_file(tensors, folders / "adapter" / FILE, metadata={"format": "pt"})
    assert cli("verify", folders / "adapter").status == 0
    assert_one_line(cli("verify", folders / "adapter", "--base", folders / "base"), "checksum")


def test_whole_models_and_runs(cli, folders, tiny, tmp_path):
    model = cli("verify", folders / "base")
    assert model.status == 0
    assert "none: a whole model's files hold none" in model.out
    for method, words in (("cla", "fingerprints"), ("full", "hold none"), ("head", "all finite")):
        out = tmp_path / method
        assert cli("train", *tiny, "--method", method, "--out", out).status == 0
        outcome = cli("verify", out)
        assert outcome.status == 0, outcome
        assert f"finished, method {method}" in outcome.out
        assert words in outcome.out
    with_base = cli("verify", tmp_path / "cla", "--base", tiny[1])
    assert "compared; the adapter loads" in with_base.out
    assert_one_line(cli("verify", tmp_path / "full", "--base", tiny[1]), "has no adapter of ours; leave --base out")
    record = json.loads((tmp_path / "cla" / "run.json").read_text())
    (tmp_path / "cla" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    assert_one_line(cli("verify", tmp_path / "cla"), "a run that is 'cut off'", "--resume")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / FILE).write_bytes((f / FILE).read_bytes()[:-1]), "damaged or cut off"),
        (lambda f: (f / FILE).unlink(), "expected the tensors next to their configuration"),
        (lambda f: (f / "adapter_config.json").unlink(), "holds no adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "is not JSON"),
        (
            lambda f: (f / "adapter_config.json").write_text('{"peft_type": "IA3"}'),
            "type 'IA3', expected 'LOPSIDED' or",
        ),
        (
            lambda f: (f / "adapter_config.json").write_text('{"peft_type": "LORA"}'),
            "lacks r; expected a configuration",
        ),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "type None, expected 'LOPSIDED' or 'LORA'"),
        (shutil.rmtree, "is no folder"),
        (lambda f: [file.unlink() for file in f.iterdir()], "expected a saved adapter, a run or a model"),
    ],
)
def test_what_is_wrong_is_one_line(cli, folders, spoil, words):
    spoil(folders / "adapter")
    assert_one_line(cli("verify", folders / "adapter"), words)


def test_options_that_do_not_fit_are_one_line(cli, folders):
    assert_one_line(cli("verify", folders / "base", "--base", folders / "other"), "leave --base out")
    assert_one_line(cli("verify", folders / "adapter", "--allow-base-mismatch"), "give --base, or leave it out")
    assert_one_line(cli("verify", folders / "adapter", "--base", "./nowhere"), "there is none at that path")
    assert_one_line(
        cli("verify", folders / "adapter", "--base", folders / "adapter"), "is an adapter folder", "expected a model"
    )
