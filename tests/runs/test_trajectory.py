"""A run keeps what it had learned at each evaluation, however often it is cut off."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lopsided import LopsidedError
from lopsided.runs import read_run, train
from lopsided.runs.directory import write_run
from lopsided.runs.reload import reload
from lopsided.runs.trajectory import snapshots
from lopsided.tasks import load_task
from tests.tiny_runs import Cut, PowerCut, tiny_config, word_tokenizer

STEPS = [8, 16, 24, 30]


def tensors(folder) -> dict[int, dict[str, torch.Tensor]]:
    return {step: load_file(next(path.glob("*.safetensors"))) for step, path in snapshots(folder).items()}


def assert_same_trajectory(folder, other) -> None:
    mine, theirs = tensors(folder), tensors(other)
    assert list(mine) == list(theirs) == STEPS
    for step in STEPS:
        assert mine[step].keys() == theirs[step].keys()
        for name, tensor in mine[step].items():
            assert torch.equal(tensor, theirs[step][name]), (step, name)


@pytest.mark.parametrize(
    ("method", "options", "kept"),
    [
        ("c3la", {}, STEPS),
        ("c3la", {"trajectory": False}, []),
        ("full", {}, []),
        ("full", {"trajectory": True}, STEPS),
        ("head", {"trajectory": True}, STEPS),
    ],
)
def test_snapshots_are_kept_at_each_evaluation_where_they_are_asked_for(run_once, bert, words, method, options, kept):
    folder, record = run_once(model=bert, task=words, method=method, **options)
    assert list(snapshots(folder)) == kept
    assert (folder / "trajectory").exists() == bool(kept)
    best = record["best_step"]
    if kept:
        ended = load_file(next((folder / "adapter").glob("*.safetensors")))
        assert all(torch.equal(tensor, ended[name]) for name, tensor in tensors(folder)[best].items())


@pytest.mark.parametrize(
    ("method", "options"), [("c3la", {}), ("lora", {}), ("full", {"trajectory": True}), ("head", {"trajectory": True})]
)
def test_a_snapshot_is_the_model_that_was_evaluated(run_once, bert, words, method, options):
    folder, record = run_once(model=bert, task=words, method=method, **options)
    losses = {entry["step"]: entry["eval_loss"] for entry in record["history"] if "eval_loss" in entry}
    rows, tokenizer = load_task(words).splits["validation"], word_tokenizer("[CLS] $A [SEP]")
    encoded, labels = tokenizer(list(rows["text"]), return_tensors="pt", padding=True), torch.tensor(rows["label"])
    for step in STEPS:
        model = reload(folder, snapshot=step).eval()
        with torch.no_grad():
            loss = F.cross_entropy(model(**encoded).logits, labels).item()
        assert loss == pytest.approx(losses[step], abs=1e-5)


def test_a_chains_snapshots_stand_at_their_links(run_once, bert, words):
    folder, _ = run_once(model=bert, task=words, method="c3la")
    links = [reload(folder, snapshot=step).peft_config["default"].link for step in STEPS]
    # Boundaries at 7, 15 and 22.
    assert links == [1, 2, 3, 3]


@pytest.mark.parametrize("cuts", [[19], [3, 11, 25], [29]])
def test_a_resumed_run_keeps_the_undisturbed_trajectory(run_once, tmp_path, bert, words, cuts):
    undisturbed, _ = run_once(model=bert, task=words, method="c3la")
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="c3la")
    for number, step in enumerate(cuts):
        with pytest.raises(PowerCut):
            train(config, resume=number > 0, callbacks=[Cut(step)])
    train(config, resume=True)
    assert_same_trajectory(config.out, undisturbed)


def test_snapshots_that_no_checkpoint_has_reached_are_made_anew(run_once, tmp_path, bert, words):
    undisturbed, _ = run_once(model=bert, task=words, method="c3la")
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="c3la")
    with pytest.raises(PowerCut):
        train(config, callbacks=[Cut(19)])
    # Killed between the snapshot of step 24 and its checkpoint, and in writing another one.
    for name in ("step-24", "step-25", ".step-30-abc"):
        (config.out / "trajectory" / name).mkdir()
        (config.out / "trajectory" / name / "adapter_model.safetensors").write_bytes(b"half")
    train(config, resume=True)
    assert_same_trajectory(config.out, undisturbed)
    assert sorted(os.listdir(config.out / "trajectory")) == sorted(f"step-{step}" for step in STEPS)


def test_a_new_run_in_a_folder_of_a_failed_one_keeps_none_of_its_snapshots(tmp_path, bert, words):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla", steps=2, trajectory=False)
    (config.out / "trajectory" / "step-1").mkdir(parents=True)
    train(config)
    assert not snapshots(config.out)


def test_a_run_of_an_older_version_is_resumed(run_once, bert, words):
    folder, _ = run_once(model=bert, task=words, method="cla", steps=2)

    older = read_run(folder).to_json()
    del older["config"]["trajectory"]
    write_run(folder, older)
    assert train(tiny_config(folder, model=bert, task=words, method="cla", steps=2), resume=True).to_json() == older


def test_a_snapshot_that_is_not_there(run_once, bert, words):
    folder, _ = run_once(model=bert, task=words, method="c3la")
    with pytest.raises(LopsidedError, match=r"holds no snapshot of step 9, but of 8, 16, 24, 30; choose one of these"):
        reload(folder, snapshot=9)


@pytest.mark.parametrize(
    ("method", "named"),
    [("lora", ("lopsided_A", "lopsided_B")), ("cla", ("lopsided_B",)), ("head", ()), ("full", None)],
)
def test_a_model_reloaded_for_training_trains_what_the_run_did(run_once, bert, words, method, named):
    folder, record = run_once(model=bert, task=words, method=method)
    model = reload(folder, trainable=True)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sum(dict(model.named_parameters())[name].numel() for name in trained) == record["trained_parameters"]
    if named is not None:
        assert all("classifier" in name or any(part in name for part in named) for name in trained)
