"""The verbs, from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import lopsided
from lopsided import METHODS
from lopsided.models.load import load_model
from lopsided.runs import read_run
from lopsided.runs.reload import reload
from lopsided.tasks import load_task
from lopsided_cli.main import VERBS
from tests.tiny_runs import BERT_HEAD, DECIDING, write_task

NAMES = (
    "full head lora lora_plus lora_fa asym_b asym_a cola relora rac_b rac_a bernoulli cla rcla c3la rc3la paca cpaca "
    "ipa_b act_cla"
)
HELP = """
import sys
sys.argv = ["lopsided", *{arguments!r}]
from lopsided_cli.main import main
try:
    main()
except SystemExit as end:
    heavy = {{"torch", "transformers", "peft", "datasets", "numpy", "lopsided"}} & set(sys.modules)
    sys.exit(f"imported {{heavy}}" if heavy else end.code)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["compare", "--help"], ["diagnose", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = HELP.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: lopsided" in done.stdout


def test_help_names_every_verb(cli):
    outcome = cli("--help")
    assert all(verb in outcome.out for verb in VERBS)


def test_the_version_is_the_librarys(cli):
    outcome = cli("--version")
    assert (outcome.status, outcome.out, outcome.err) == (0, f"lopsided {lopsided.__version__}\n", "")


def test_methods_lists_all(cli):
    outcome = cli("methods")
    assert (outcome.status, outcome.err) == (0, "")
    listed = [line.split("│")[1].strip() for line in outcome.out.splitlines() if line.startswith("│")]
    ours = {name for name in listed if name and not name.startswith("peft:")}
    assert ours == set(NAMES.split())
    assert "…" not in outcome.out
    assert "r·(d_out + d_in)" in outcome.out
    assert "Window(cyclic)" in outcome.out
    assert "4 links, prune 0.99, re-warm 5" in outcome.out


def test_methods_as_json(cli):
    outcome = cli("methods", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    rows = {row["name"]: row for row in json.loads(outcome.out) if row["train"] != "peft"}
    assert set(rows) == set(NAMES.split()) == set(METHODS)
    assert rows["c3la"]["sketch"] == {"kind": "Window", "order": "cyclic"}
    assert (rows["c3la"]["chain"]["links"], rows["c3la"]["trained_numbers"]) == (4, "r·d_out")
    assert all(row["source"] for row in rows.values())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, bert, words) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """`lopsided train` with a chain, in a process of its own."""
    out = tmp_path_factory.mktemp("cli") / "run"
    options = f"--method c3la --links 3 --rank 4 --steps 9 --batch-size 8 --max-length 16 --lr 0.01 --out {out}"
    command = [sys.executable, "-m", "lopsided_cli.main", "train", "--model", bert, "--task", words]
    return out, subprocess.run([*command, *options.split()], capture_output=True, text=True, check=False)


def test_train_writes_a_run_and_says_what_it_came_to(trained, words):
    out, done = trained
    assert done.returncode == 0
    record = read_run(out).to_json()
    assert (record["status"], record["config"]["task"], record["config"]["links"]) == ("finished", words, 3)
    assert [event["link"] for event in record["chain"]["events"]] == [1, 2]
    figures = record["metrics"]["test"]
    assert f"test  accuracy {figures['score']:.4f} ± {figures['se']:.4f}" in done.stdout
    assert f"{record['trained_parameters']:,} trained numbers" in done.stdout
    assert done.stdout.splitlines()[-1] == f"wrote {out}"


def test_train_lets_no_library_speak(trained):
    _, done = trained
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["train", "validation", "test", "G(W)", "cost", "rows", "wrote"]
    [progress] = done.stderr.splitlines()
    assert progress.startswith("c3la: 9 steps, lowest validation loss ")


@pytest.mark.parametrize("method", ["full", "head", "lora_plus"])
def test_train_is_as_quiet_in_every_way_of_saving(cli, tiny, tmp_path, method):
    outcome = cli("train", *tiny, "--method", method, "--steps", 2, "--bf16", "--out", tmp_path / "out")
    assert outcome.status == 0
    [progress] = outcome.err.splitlines()
    assert progress.startswith(f"{method}: 2 steps, lowest validation loss ")
    assert len(outcome.out.splitlines()) == 7


def test_train_as_json_is_the_record(cli, tiny, tmp_path):
    options = ["--method", "cla", "--steps", 2, "--seed", 3, "--json", "--out", tmp_path / "out"]
    outcome = cli("train", *tiny, *options)
    assert json.loads(outcome.out) == read_run(tmp_path / "out").to_json()
    assert json.loads(outcome.out)["config"]["seed"] == 3
    assert outcome.err.startswith("cla 3: 2 steps, ")
    again = cli("train", *tiny, *options, "--resume")
    assert (again.out, again.err) == (outcome.out, "")


def test_train_finds_a_free_folder(cli, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for expected in ("lopsided-run", "lopsided-run-2"):
        outcome = cli("train", *tiny, "--method", "head", "--steps", 1)
        assert outcome.out.splitlines()[-1] == f"wrote {expected}"
        assert read_run(tmp_path / expected).status == "finished"


@pytest.mark.parametrize(("modules", "layers"), [("query", 2), ("query,value", 4), (r".*\.0\..*(query|key)", 2)])
def test_train_adapts_the_modules_that_are_named(cli, tiny, tmp_path, modules, layers):
    options = ["--method", "cla", "--steps", 1, "--target-modules", modules, "--out", tmp_path / "out"]
    assert cli("train", *tiny, *options).status == 0
    # B of 32 x 4 in each layer, and the head.
    assert read_run(tmp_path / "out").trained_parameters == layers * 32 * 4 + BERT_HEAD


@pytest.mark.parametrize("verb", ["train", "compare"])
def test_classes_read_under_another_name(cli, tiny, tmp_path, verb):
    (tmp_path / "task").mkdir()
    # FOLIO's case: train says "Unknown" where another split says "Uncertain".
    names = ("Unknown", "True")
    task = write_task(tmp_path / "task", lambda text, w: {"text": text, "label": names[DECIDING[w]]})
    test = Path(task) / "test.jsonl"
    test.write_text(test.read_text().replace("Unknown", "Uncertain"))
    chosen = ["--method" if verb == "train" else "--methods", "cla", "--steps", 2, "--out", tmp_path / "out"]
    outcome = cli(verb, *tiny, "--task", task, *chosen)
    assert (outcome.status, "labels differ between splits" in outcome.err) == (2, True)
    outcome = cli(verb, *tiny, "--task", task, *chosen, "--rename-labels", "Uncertain=Unknown")
    assert outcome.status == 0
    run = tmp_path / "out" if verb == "train" else tmp_path / "out" / "runs" / "cla-seed0"
    assert read_run(run).task.labels == ("True", "Unknown")
    assert read_run(run).settings["rename_labels"] == {"Uncertain": "Unknown"}
    assert reload(run).config.id2label == {0: "True", 1: "Unknown"}


@pytest.mark.parametrize("verb", ["train", "compare", "advise"])
def test_columns_that_are_not_for_learning(cli, tiny, tmp_path, verb):
    (tmp_path / "task").mkdir()
    task = write_task(tmp_path / "task", lambda text, w: {"text": text, "label": DECIDING[w], "source": w, "by": w})
    chosen = {
        "train": ["--method", "cla", "--steps", 2],
        "compare": ["--methods", "cla", "--steps", 2],
        "advise": ["--methods", "cla", "--batches", 2, "--batch-size", 8, "--head-steps", 0],
    }[verb]
    options = tiny if verb != "advise" else tiny[:2]
    out = tmp_path / "out"
    outcome = cli(verb, *options, "--task", task, *chosen, "--out", out)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "'source' of train, validation, test, 'by' of train" in outcome.err
    assert "(--ignore-columns source,by)" in outcome.err
    outcome = cli(verb, *options, "--task", task, *chosen, "--ignore-columns", "source, by", "--out", out)
    assert outcome.status == 0
    shape = (
        "classification into 2 classes (0, 1): text = text, label = label; left out: source (as asked), by (as asked)"
    )
    assert f"rows read as {shape}" in (outcome.err if verb == "advise" else outcome.out)
    if verb == "advise":
        assert json.loads((out / "advice.json").read_text())["settings"]["ignore_columns"] == ["source", "by"]
        return
    record = read_run(out if verb == "train" else out / "runs" / "cla-seed0").to_json()
    assert record["config"]["ignore_columns"] == ["source", "by"]
    assert record["task"]["shape"] == shape
    if verb == "compare":
        assert json.loads((out / "results.json").read_text())["task_shape"] == shape


# -- export --------------------------------------------------------------------------------------------------


def test_export_makes_a_lora_adapter_that_stock_peft_loads(trained, cli, bert, words, tmp_path):
    run, _ = trained
    outcome = cli("export", run, "--out", tmp_path / "lora", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    # The best checkpoint decides how many links of rank 4 there are.
    links = sum(step <= read_run(run).best_step for step in (3, 6)) + 1
    report = json.loads(outcome.out)
    assert (report["path"], report["rank"], report["error"]) == (str(tmp_path / "lora"), 4 * links, 0)
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert not [name for name in tensors if "lopsided" in name]
    model, tokenizer = load_model(bert, load_task(words), seed=0)
    batch = tokenizer(["river good stone", "awful lamp chair"], return_tensors="pt")
    with torch.no_grad():
        exported = PeftModel.from_pretrained(model, str(tmp_path / "lora")).eval()(**batch).logits
        trained_logits = reload(run).eval()(**batch).logits
    assert torch.allclose(exported, trained_logits, atol=1e-5)


def test_export_goes_into_the_run_unless_told_otherwise(trained, cli):
    run, _ = trained
    outcome = cli("export", run)
    assert outcome.status == 0
    assert outcome.out.splitlines() == [outcome.out.strip()]
    assert str(run / "lora") in outcome.out
    assert (run / "lora" / "probe.json").is_file()
    # And again over itself.
    assert cli("export", run).status == 0


def test_export_spares_a_folder_of_other_things(trained, cli, tmp_path):
    run, _ = trained
    (tmp_path / "thesis.tex").write_text("years of work")
    outcome = cli("export", run, "--out", tmp_path)
    assert outcome.status == 2
    assert outcome.err == (
        f"lopsided: {tmp_path} holds thesis.tex, which would be lost; expected a new folder, or one written by the "
        "same command; choose another one\n"
    )
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("method", ["full", "head"])
def test_export_needs_an_adapter(cli, tiny, tmp_path, method):
    assert cli("train", *tiny, "--method", method, "--steps", 1, "--out", tmp_path / "out").status == 0
    outcome = cli("export", tmp_path / "out")
    assert (outcome.status, outcome.out) == (2, "")
    assert f"holds a run of {method!r}, which trains " in outcome.err
    assert "has no low-rank terms" in outcome.err
    assert outcome.err.count("\n") == 1
