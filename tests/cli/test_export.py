"""`lopsided export` and `lopsided probe`: what they print, and how they refuse."""

from __future__ import annotations

import json

import pytest

from tests.cli.commands import assert_one_line
from tests.serving.adapters import trained


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A saved chain of four links of rank 8 on a tiny Llama."""
    folder = tmp_path_factory.mktemp("chain")
    return trained("rac_b", "llama", folder, r=8, links=4)[0]


def test_a_saved_adapter_for_vllm_says_what_its_rank_takes(cli, chain, tmp_path):
    outcome = cli("export", chain, "--for", "vllm", "--out", tmp_path / "out")
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert lines[0] == f"wrote a LoRA adapter of rank 32 to {tmp_path / 'out'}"
    assert lines[1].startswith(
        "note: rank 32 is above vLLM's default of 16: start it with --max-lora-rank 32, or export with --rank 16, a "
        "relative error of "
    )
    assert "--max-lora-rank 32" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "export.json").read_text())["server"] == "vllm"


def test_recompression_prints_the_errors_of_layers_and_of_all(cli, chain, tmp_path):
    outcome = cli("export", chain, "--for", "vllm", "--rank", 8, "--out", tmp_path / "out")
    assert outcome.status == 0
    assert "from rank 32 to 8: a relative error of 0." in outcome.out
    # Fourteen layers, of which twelve are printed.
    assert "2 more, in export.json" in outcome.out
    report = json.loads(cli("export", chain, "--for", "vllm", "--rank", 8, "--out", tmp_path / "out", "--json").out)
    assert (report["for"], report["rank"], report["source_rank"], report["probe"]) == ("vllm", 8, 32, True)
    assert len(report["layers"]) == 14
    assert 0 < report["error"] < 1
    assert max(report["layers"].values()) >= report["error"]


def test_an_adapter_exports_next_to_itself_by_default(cli, chain):
    for server, name in (("peft", "lora"), ("sglang", "lora-sglang")):
        outcome = cli("export", chain, "--for", server, "--no-probe")
        assert outcome.out.splitlines()[0].endswith(str(chain / name))
        assert not (chain / name / "probe.json").exists()


def test_probe_of_a_folder_and_of_a_server(cli, chain, tmp_path):
    out = tmp_path / "out"
    assert cli("export", chain, "--for", "vllm", "--out", out).status == 0
    outcome = cli("probe", out)
    assert outcome.status == 0
    assert outcome.out.startswith("adapter: the answers are ")
    verified = cli("verify", out)
    # The title is wrapped to the width of the table, and has the folder in it.
    assert "adapter, no fault found" in " ".join(verified.out.split())
    assert "for vLLM, of rac_b, r=8, 4 links, rank 32 as rank 32, relative error 0" in verified.out
    with_base = cli("verify", out, "--base", chain.parent / "llama")
    assert "answers its probe as expected" in with_base.out
    # An adapter of nothing: its probe is answered by the base.
    from safetensors.torch import load_file, save_file

    tensors = load_file(out / "adapter_model.safetensors")
    save_file(
        {name: t * 0 for name, t in tensors.items()}, out / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    report = cli("probe", out, "--json")
    assert report.status == 1
    assert json.loads(report.out)["verdict"] == "base"
    assert_one_line(cli("verify", out), "adapter_model.safetensors differs from its hash in export.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["probe", "http://127.0.0.1:8000"], "name the export's folder with --of"),
        (["probe", "http://127.0.0.1:8000", "--of", ".", "--base", "x"], "leave --base out"),
        (["probe", ".", "--model", "x"], "--model is for the URL of a server"),
        (["probe", ".", "--of", "."], "--of is for the URL of a server"),
        (["probe", ".", "--remote"], "--remote is for the URL of a server"),
    ],
)
def test_options_that_do_not_fit_are_one_line(cli, arguments, words):
    assert_one_line(cli(*arguments), words)


def test_what_is_wrong_is_one_line(cli, chain, tmp_path):
    assert_one_line(cli("probe", chain), "holds no probe.json; expected an export with a probe")
    assert_one_line(
        cli("export", chain, "--for", "vlm"), "unknown server 'vlm'; expected one of peft, vllm, sglang, gguf"
    )
    assert_one_line(cli("export", chain, "--for", "vllm", "--rank", 3), "choose one of them")
    assert_one_line(cli("export", chain, "--out", chain), "is where the adapter itself lies, which would be lost")
    assert_one_line(cli("export", tmp_path), f"{tmp_path} holds no run and no adapter; expected a finished run")


def test_verify_knows_stock_lora_and_its_damage(cli, tmp_path):
    from tests.serving.adapters import stock_lora

    saved, _ = stock_lora("llama", tmp_path)
    outcome = cli("verify", saved, "--base", tmp_path / "llama")
    assert outcome.status == 0
    for words in ("LoRA of PEFT, r=4", "none: PEFT's files hold none", "the adapter loads", "all finite"):
        assert words in outcome.out
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, "r": "4"}))
    assert_one_line(cli("verify", saved), "r must be int, got '4'")


def test_a_card_may_be_edited_and_an_export_not(cli, chain, tmp_path):
    out = tmp_path / "out"
    assert cli("export", chain, "--out", out, "--no-probe").status == 0
    (out / "README.md").write_text("my own words")
    assert cli("verify", out).status == 0
    (out / "adapter_config.json").write_text((out / "adapter_config.json").read_text() + " ")
    assert_one_line(cli("verify", out), "adapter_config.json differs from its hash")
