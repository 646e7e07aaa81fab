"""Bad input is one line on stderr and exit status 2."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

from lopsided import (
    METHODS,
    Columns,
    Gaussian,
    KaimingUniform,
    LopsidedError,
    Orthonormal,
    Singular,
    Window,
)
from lopsided.method.sketch import sketch_named
from lopsided.runs import read_run
from tests.cli.commands import assert_one_line
from tests.diagonal import diagonal

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def task_folder(folder, **splits):
    """A task of written rows; a split is a list of rows, or the text of its file."""
    rows = [{"text": "river good", "label": 1}, {"text": "river awful", "label": 0}]
    for split, content in {"train": rows, "validation": rows, "test": rows, **splits}.items():
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content or [])
        if content is not None:
            (folder / f"{split}.jsonl").write_text(text)
    return folder


@pytest.mark.parametrize(("verb", "option"), [("train", "--method"), ("compare", "--methods")])
def test_an_unknown_method_lists_the_known_and_the_nearest(cli, tiny, tmp_path, verb, option):
    outcome = cli(verb, *tiny, option, "c3al", "--out", tmp_path / "out")
    assert_one_line(outcome, "unknown method 'c3al'; expected one of", *METHODS, "did you mean 'c3la'?")
    assert not (tmp_path / "out").exists()


def test_an_unknown_sketch_lists_the_known_and_the_nearest():
    # No verb takes a sketch; files and configurations do.
    with pytest.raises(LopsidedError, match=r"'Windw'.*did you mean 'Window'\?") as caught:
        sketch_named("Windw")
    message = str(caught.value)
    assert "\n" not in message
    for kind in (Columns, Gaussian, KaimingUniform, Orthonormal, Singular, Window):
        assert kind.__name__ in message


@pytest.mark.parametrize(("method", "width"), [("cla", "d_in=32"), ("asym_a", "d_out=32"), ("bernoulli", "32")])
def test_a_rank_above_the_layers_width(cli, tiny, tmp_path, method, width):
    outcome = cli("train", *tiny, "--rank", 33, "--method", method, "--out", tmp_path / "out")
    assert_one_line(outcome, "rank must not exceed the layer's width: r=33", width, "lower r or exclude the module")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--links", 9], "links must not exceed the steps: links=9, steps=8; lower links"),
        (["--every", 9], "a link of every=9 steps does not fit a run of 8 steps"),
        (["--links", 0], "links must be at least 1, got 0"),
    ],
)
def test_links_that_do_not_fit_the_steps(cli, tiny, tmp_path, options, message):
    assert_one_line(cli("train", *tiny, "--method", "c3la", *options, "--out", tmp_path / "out"), message)


def test_links_that_do_not_fit_the_epochs(cli, bert, words, tmp_path):
    # 64 rows by 8 are 8 steps, which only the loaded task tells.
    options = ["--model", bert, "--task", words, "--rank", 4, "--epochs", 1, "--batch-size", 8]
    outcome = cli("train", *options, "--method", "c3la", "--links", 9, "--out", tmp_path / "out")
    assert_one_line(outcome, "links must not exceed the steps: links=9, steps=8; lower links")


@pytest.mark.parametrize("option", ["--links", "--every"])
def test_links_for_a_method_without_a_chain(cli, tiny, tmp_path, option):
    outcome = cli("train", *tiny, "--method", "lora", option, 2, "--out", tmp_path / "out")
    assert_one_line(outcome, f"method 'lora' has no chain, got {option[2:]}=2; leave it out or choose a chained one")


@pytest.mark.parametrize("modules", ["nope", "nope,neither", r".*\.nope"])
def test_modules_that_match_nothing(cli, tiny, tmp_path, modules):
    outcome = cli("train", *tiny, "--method", "cla", "--target-modules", modules, "--out", tmp_path / "out")
    words = "no module matches" if "*" in modules else "nothing is adapted for"
    assert_one_line(outcome, "target_modules", words, "nope'", "dense", "key", "query", "value", "'all-linear'")


def test_modules_that_can_not_be_adapted(cli, tiny, tmp_path):
    outcome = cli("train", *tiny, "--method", "cla", "--target-modules", "LayerNorm", "--out", tmp_path / "out")
    assert_one_line(outcome, "is a LayerNorm, which can't be adapted", "torch.nn.Linear")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_split(cli, tiny, tmp_path, split):
    folder = task_folder(tmp_path, **{split: None})
    outcome = cli("train", *tiny, "--task", folder, "--out", tmp_path / "out")
    fix = "add it" if split == "train" else "--make-split"
    assert_one_line(outcome, f"missing {split}.jsonl", str(folder), fix)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", "validation.jsonl", "received an empty file"),
        ('{"text": "x", "label": 1}\n{"text": "y", "label\n', "validation.jsonl:2", "expected a JSON object"),
        ('{"text": "x", "label": 1}\n[1, 2]\n', "validation.jsonl:2", "expected a JSON object, got list"),
        ('{"text": "x"}\n', "validation.jsonl:1", "expected field 'label'"),
        ('{"text": "x", "label": 1}\n\n{"text": "y", "label": 0}\n', "validation.jsonl:2", "expected a JSON object"),
    ],
)
def test_empty_and_malformed_json_lines(cli, tiny, tmp_path, text, place, message):
    folder = task_folder(tmp_path, validation=text)
    assert_one_line(cli("train", *tiny, "--task", folder, "--out", tmp_path / "out"), f"{folder}/{place}", message)


def test_labels_that_differ_between_splits(cli, tiny, tmp_path):
    folder = task_folder(tmp_path, test=[{"text": "x", "label": 2}])
    outcome = cli("train", *tiny, "--task", folder, "--out", tmp_path / "out")
    assert_one_line(outcome, "labels differ between splits", "train's labels 0, 1", "test has '2' (1 rows)")


def test_a_loss_that_is_not_finite(cli, tiny, tmp_path):
    outcome = cli("train", *tiny, "--method", "lora", "--lr", 1e30, "--warmup", 0, "--out", tmp_path / "out")
    said = ("loss is", "at step 2", "in the output of base_model", "expected a finite one", "last good checkpoint")
    assert_one_line(outcome, *said, "learning rate")
    assert read_run(tmp_path / "out").status == "failed"


@pytest.mark.parametrize(
    ("call", "error"),
    diagonal(
        [1, 2, 5],
        [
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "adapter_model.safetensors"),
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ],
        share=2,
    ),
)
def test_no_space_left(cli, tiny, tmp_path, monkeypatch, error, call):
    # Twice a snapshot and its checkpoint are written, and then the adapter.
    import peft.peft_model

    calls, save = [], peft.peft_model.safe_save_file

    def fail(tensors, path, *args, **kwargs):
        calls.append(path)
        if len(calls) == call:
            raise error
        save(tensors, path, *args, **kwargs)

    monkeypatch.setattr(peft.peft_model, "safe_save_file", fail)
    options = [*tiny, "--method", "cla", "--steps", 2, "--evaluations", 2, "--out", tmp_path / "out"]
    outcome = cli("train", *options)
    # In the fifth call training is over, and its line of progress stands before the error.
    if call == 5:
        progress, error_line = outcome.err.splitlines(keepends=True)
        assert progress.startswith("cla: 2 steps, ")
        outcome = dataclasses.replace(outcome, err=error_line)
    assert_one_line(outcome, "no space left on the disk of", "free some space", "--resume")
    assert read_run(tmp_path / "out").status == "failed"
    assert not (tmp_path / "out" / "adapter").exists()
    monkeypatch.setattr(peft.peft_model, "safe_save_file", save)
    assert cli("train", *options, "--resume").status == 0
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("verb", ["train", "compare"])
def test_a_folder_in_use(cli, tiny, tmp_path, verb):
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        outcome = cli(verb, *tiny, "--out", tmp_path / "out")
        holder.kill()
    assert_one_line(outcome, f"{tmp_path}/out is in use by another run", "wait for it or choose another --out")


NOTHING_LEFT = [
    *[("train", options) for options in (["--rank", 33], ["--target-modules", "nope"], ["--epochs", 0])],
    *[("train", options) for options in (["--target-modules", ""], ["--target-modules", "("], ["--steps", 0])],
    *[("train", options) for options in (["--batch-size", 0], ["--eval-rows", 0], ["--rank", 0], ["--lr", 0])],
    *[("train", options) for options in (["--lr", "nan"], ["--max-length", 200], ["--model", "./nowhere"])],
    *[("compare", options) for options in (["--target-modules", "LayerNorm"], ["--task", "./nowhere"], ["--steps", 0])],
    ("compare", ["--seeds", "0,0"]),
]


@pytest.mark.parametrize(("verb", "options"), NOTHING_LEFT)
def test_what_is_refused_leaves_nothing_behind(cli, tiny, tmp_path, verb, options):
    if "--epochs" in options:
        place = tiny.index("--steps")
        tiny = [*tiny[:place], *tiny[place + 2 :]]
    chosen = {"train": ["--method", "cla"], "compare": ["--methods", "cla,head"]}[verb]
    outcome = cli(verb, *tiny, *chosen, *options, "--out", tmp_path / "out")
    assert_one_line(outcome)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("x"), "KeyError: 'x'; this should not happen: set LOPSIDED_TRACEBACK=1"),
        (AssertionError(), "AssertionError: no message; this should not happen"),
        (RuntimeError("CUDA error\nmore"), "RuntimeError: CUDA error; this should not happen"),
        (MemoryError(), "out of memory; what was saved is kept; lower --batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory; what was saved is kept; lower --batch-size"),
        (OSError(errno.EIO, "Input/output error", "run.json"), "the system refused run.json: Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "cannot write out: Permission denied"),
    ],
)
def test_a_crash_is_one_line_and_a_record(cli, tiny, tmp_path, monkeypatch, error, message):
    def fail(*args):
        raise error

    monkeypatch.setattr("lopsided.runs.session.save_trained", fail)
    options = [*tiny, "--method", "cla", "--steps", 2, "--evaluations", 1, "--out", tmp_path / "out"]
    outcome = cli("train", *options)
    progress, error_line = outcome.err.splitlines(keepends=True)
    assert progress.startswith("cla: 2 steps, ")
    assert_one_line(dataclasses.replace(outcome, err=error_line), message)
    record = read_run(tmp_path / "out").to_json()
    assert record["status"] == "failed"
    assert record["error"]
    monkeypatch.setenv("LOPSIDED_TRACEBACK", "1")
    if "this should not happen" in message:
        with pytest.raises(type(error)):
            cli("train", *options, "--resume")


@pytest.mark.parametrize("folder", ["file/out", "file"])
def test_a_folder_that_can_not_be_made(cli, tiny, tmp_path, folder):
    (tmp_path / "file").write_text("")
    outcome = cli("train", *tiny, "--method", "cla", "--out", tmp_path / folder)
    assert_one_line(outcome, "is a file; expected a folder; choose another --out")


# -- beside the list -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "./no-model"], "./no-model"),
        (["--task", "./no-task"], "no-task, which is not there"),
        (["--rename-labels", "no"], "--rename-labels must be OLD=NEW pairs separated by commas, got 'no'"),
        (["--rename-labels", "no="], "--rename-labels must be OLD=NEW pairs"),
        (["--rename-labels", "nope=yes"], "rename_labels expects labels of the data; received 'nope'"),
        (["--ignore-columns", "a,"], "--ignore-columns must be names separated by commas, got 'a,'"),
        (["--ignore-columns", "txt"], "ignore_columns expects columns of the data, text, label; received 'txt'; did"),
        (["--metric", "acuracy"], "did you mean 'accuracy'?"),
        (["--label", "lable"], "did you mean 'label'?"),
        (["--max-length", 4], "max_length must lie between 8 and the tokenizer's limit: max_length=4, limit=128"),
        (["--report-to", "tensorbord"], "report_to='tensorbord' is no tracker that is installed"),
        (["--epochs", 2], "give steps or epochs, not both: got steps=8, epochs=2.0"),
        (["--seed", -1], "seed must lie in [0, 2^32), got -1"),
    ],
)
def test_other_options_that_make_no_sense(cli, tiny, tmp_path, options, message):
    assert_one_line(cli("train", *tiny, "--method", "cla", *options, "--out", tmp_path / "out"), message)


def test_a_head_where_there_is_none(cli, llama, phrases, tmp_path):
    options = ["--model", llama, "--task", phrases, "--steps", 2, "--method", "head", "--out", tmp_path / "out"]
    assert_one_line(cli("train", *options), "method 'head' trains the task's head, and generation has none")


def test_a_run_that_is_there(cli, tiny, tmp_path):
    options = [*tiny, "--method", "head", "--steps", 2, "--out", tmp_path / "out"]
    assert cli("train", *options).status == 0
    assert_one_line(cli("train", *options), "holds a run already (finished); expected a new folder; pass --resume")
    outcome = cli("train", *options, "--rank", 3, "--resume")
    assert_one_line(outcome, "holds a run with rank=4, asked 3; resume with its own options")


def test_a_file_where_a_folder_should_be(cli, tiny, tmp_path):
    (tmp_path / "out").write_text("")
    assert_one_line(cli("train", *tiny, "--out", tmp_path / "out"), "out is a file; expected a folder")


@pytest.mark.parametrize("seeds", ["0,x", "", "0,,1"])
def test_seeds_that_are_no_numbers(cli, tiny, tmp_path, seeds):
    outcome = cli("compare", *tiny, f"--seeds={seeds}", "--out", tmp_path / "out")
    assert_one_line(outcome, "--seeds must be whole numbers separated by commas")


def test_export_of_nothing(cli, tmp_path):
    assert_one_line(cli("export", tmp_path), f"{tmp_path} holds no run and no adapter; expected a finished run")


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["train", "--methd", "lora"],
        ["train", "--rank", "many"],
        ["train", "--steps", "1.5"],
        ["train", "--method"],
        ["train", "stray"],
        ["compare", "--seeds"],
        ["export"],
        [],
    ],
)
def test_usage_errors_have_the_same_status(cli, arguments):
    outcome = cli(*arguments)
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    assert "Error" in outcome.err or "Usage: lopsided" in outcome.out


@pytest.mark.parametrize(
    ("verb", "option", "value", "said"),
    [
        # Found before the library is imported, and after the model was loaded.
        ("compare", "--seeds", "x", "--seeds must be whole numbers separated by commas, got 'x'"),
        pytest.param(
            *("train", "--rank", "64", "rank must not exceed the layer's width: r=64, d_in=32 in"),
            marks=pytest.mark.more,
        ),
    ],
)
def test_a_real_process_ends_the_same_way(tiny, tmp_path, verb, option, value, said):
    command = [sys.executable, "-m", "lopsided_cli.main", verb, *map(str, tiny), option, value]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"lopsided: {said}")
