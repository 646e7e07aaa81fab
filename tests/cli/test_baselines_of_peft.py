"""Methods of stock PEFT on the command line: listed, compared, reported, diagnosed, checked, exported or refused."""

from __future__ import annotations

import json

import pytest
from peft import LoraConfig

from lopsided.baselines import BASELINES
from lopsided.runs import finished_run
from tests.cli.commands import assert_one_line
from tests.tiny_runs import BERT_LAYERS


@pytest.fixture(scope="module")
def made(run_once, bert, words):
    """Runs of methods of each kind of update."""
    options = {"model": bert, "task": words, "steps": 4, "evaluations": 2}
    return {name: run_once(method=f"peft:{name}", **options)[0] for name in ("pissa", "dora", "ia3")}


def test_compare_ranks_baselines_next_to_our_methods(cli, tiny, tmp_path):
    options = [*tiny, "--steps", 4, "--methods", "head,lora,cla,peft:dora", "--out", tmp_path / "out"]
    outcome = cli("compare", *options)
    assert outcome.status == 0
    rows = {row["method"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["rows"]}
    assert list(rows) == ["head", "lora", "cla", "peft:dora"]
    cells = {name: {key: cell["mean"] for key, cell in row["cells"].items()} for name, row in rows.items()}
    # A magnitude per output of each layer.
    assert cells["peft:dora"]["trained_parameters"] == cells["lora"]["trained_parameters"] + sum(
        d_out for d_out, _ in BERT_LAYERS
    )
    assert all(cells["peft:dora"][key] > 0 for key in ("file_bytes", "kept_bytes", "step_ms"))
    assert rows["peft:dora"]["floor"] is False
    assert "peft:dora" in outcome.out
    assert "peft:dora" in (tmp_path / "out" / "report.html").read_text()


def test_methods_lists_baselines_with_their_rates(cli):
    outcome = cli("methods")
    assert all(f"peft:{name}" in outcome.out for name in BASELINES)
    listed = {row["name"]: row for row in json.loads(cli("methods", "--json").out)}
    assert all(listed[f"peft:{name}"]["why_lr"] and listed[f"peft:{name}"]["source"] for name in BASELINES)


def test_an_unknown_baseline_is_refused_with_the_nearest(cli, tiny, tmp_path):
    outcome = cli("train", *tiny, "--method", "peft:dorra", "--out", tmp_path / "out")
    assert_one_line(outcome, "unknown method of PEFT 'dorra'", "did you mean 'dora'?")


@pytest.mark.parametrize(
    ("name", "rank", "words_of_error"),
    [
        ("oft", 3, ("blocks of 4r=12 inputs must divide d_in=32", "choose r from 1, 2, 4, 8")),
        ("shira", 20, ("r·(d_out + d_in)=1280", "lower r to 16")),
        ("miss", 33, ("r=33, d_in=32", "lower r")),
        ("adalora", 30, ("ceil(1.5 r)=45, min(d_out, d_in)=32", "lower r")),
    ],
)
def test_a_rank_that_does_not_fit_is_refused_before_anything_is_made(cli, tiny, tmp_path, name, rank, words_of_error):
    outcome = cli("train", *tiny, "--rank", rank, "--method", f"peft:{name}", "--out", tmp_path / "out")
    assert_one_line(outcome, *words_of_error)
    assert not (tmp_path / "out").exists()


def test_dropout_that_a_baseline_has_not_is_refused(cli, tiny, tmp_path):
    outcome = cli("train", *tiny, "--dropout", 0.1, "--method", "peft:oft", "--out", tmp_path / "out")
    assert_one_line(outcome, "peft:oft has no dropout", "leave it out")


@pytest.mark.parametrize("name", ["pissa", "dora", "ia3"])
def test_a_baseline_is_diagnosed_by_what_merging_adds(cli, made, name):
    outcome = cli("diagnose", made[name], "--only", "layers,intruders,generalization,forgetting", "--json")
    assert outcome.status == 0
    diagnosis = json.loads((made[name] / "diagnosis.json").read_text())
    assert diagnosis["skipped"] == {}
    assert len(diagnosis["layers"]) == len(BERT_LAYERS)
    assert all(layer["delta"]["frobenius"] > 0 for layer in diagnosis["layers"])
    # What PiSSA adds is of rank 2r at most, on the original weights.
    assert name != "pissa" or {layer["delta"]["rank"] for layer in diagnosis["layers"]} == {8}


@pytest.mark.parametrize("name", ["pissa", "dora", "ia3"])
def test_a_saved_baseline_is_verified(cli, made, name):
    outcome = cli("verify", made[name])
    assert outcome.status == 0
    assert "all finite" in outcome.out


def test_export_writes_what_is_lora_and_refuses_the_rest_by_name(cli, made, tmp_path):
    outcome = cli("export", made["pissa"], "--out", tmp_path / "lora")
    assert outcome.status == 0
    # Of rank 2r, on the original weights.
    assert LoraConfig.from_pretrained(str(tmp_path / "lora")).r == 2 * finished_run(made["pissa"]).config.rank
    refused = cli("export", made["dora"], "--out", tmp_path / "dora")
    assert_one_line(refused, "'peft:dora' is not saved as ΔW = s·B·A")
    assert not (tmp_path / "dora").exists()


def test_the_theory_refuses_baselines_by_name(cli, bert, made):
    outcome = cli("bounds", "--model", bert, "--methods", "lora,peft:dora")
    assert "peft:dora: a method of PEFT" in outcome.out
    assert_one_line(cli("bounds", made["dora"]), "'peft:dora' has no bound")
