"""A run that was cut off goes on as if nothing had happened."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from lopsided import LopsidedError
from lopsided.runs import finished_run, read_run, train
from lopsided.runs.directory import newest_checkpoint, write_json
from tests.tiny_runs import Cut, PowerCut, tiny_config

METHODS = ["lora", "lora_plus", "c3la", "relora", "bernoulli", "full", "head"]
# Settings under which c3la's links end at 7, 15 and 22, and checkpoints stand at 8, 16, 24 and 30.
CUT_AT = 19


class NeverTrain(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        raise AssertionError("nothing was left to train")


def cut_off(config, step: int = CUT_AT) -> None:
    with pytest.raises(PowerCut):
        train(config, callbacks=[Cut(step)])
    assert read_run(config.out).status == "failed"
    assert not (config.out / "adapter").exists()


def saved(folder) -> dict[str, torch.Tensor]:
    [weights] = (folder / "adapter").glob("*.safetensors")
    return load_file(weights)


def assert_same_run(folder, other) -> None:
    mine, theirs = saved(folder), saved(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
    mine, theirs = finished_run(folder), finished_run(other)
    assert mine.metrics == theirs.metrics
    assert mine.generalization_error == theirs.generalization_error
    assert (mine.best_step, mine.chain, mine.steps) == (theirs.best_step, theirs.chain, theirs.steps)
    assert (mine.trained_parameters, mine.timed_steps) == (theirs.trained_parameters, theirs.timed_steps)
    for split in ("train", "validation"):
        assert mine.losses(split) == theirs.losses(split)
        assert mine.losses(split)
    assert len(mine.history) == len(theirs.history)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_where_an_undisturbed_one_does(run_once, tmp_path, bert, words, method):
    undisturbed, _ = run_once(model=bert, task=words, method=method)
    config = tiny_config(tmp_path / "run", model=bert, task=words, method=method)
    cut_off(config)
    assert newest_checkpoint(config.out).name == "checkpoint-16"
    said = []
    train(config, resume=True, note=said.append)
    assert "goes on after step 16 of 30" in said
    assert_same_run(config.out, undisturbed)


def test_resuming_with_accumulation(run_once, tmp_path, bert, words):
    options = {"model": bert, "task": words, "method": "c3la", "batch_size": 8, "accumulate": 2}
    undisturbed, _ = run_once(**options)
    config = tiny_config(tmp_path / "run", **options)
    cut_off(config)
    train(config, resume=True)
    assert_same_run(config.out, undisturbed)


def test_losses_are_logged_alike_whatever_the_distance_of_checkpoints(run_once, tmp_path, bert, words):
    # Checkpoints at 15 and 30: half that distance would leave losses unlogged at each.
    options = {"model": bert, "task": words, "method": "cla", "evaluations": 2}
    undisturbed, record = run_once(**options)
    assert [entry["step"] for entry in record["history"] if "loss" in entry] == [5, 10, 15, 20, 25, 30]
    config = tiny_config(tmp_path / "run", **options)
    cut_off(config)
    train(config, resume=True)
    assert_same_run(config.out, undisturbed)


def test_cut_off_twice_and_before_the_first_checkpoint(run_once, tmp_path, bert, words):
    undisturbed, _ = run_once(model=bert, task=words, method="c3la")
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="c3la")
    cut_off(config, step=3)
    said = []
    for step in (11, 25):
        with pytest.raises(PowerCut):
            train(config, resume=True, callbacks=[Cut(step)], note=said.append)
    told = [line for line in said if "step" in line]
    assert told == ["there is no whole checkpoint: begins at step 0", "goes on after step 8 of 30"]
    assert train(config, resume=True).to_json()["resumed_at"] == [8, 24]
    assert_same_run(config.out, undisturbed)


@pytest.mark.parametrize("state", [None, "", '{"global_step": 16, "log_hist'])
def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(run_once, tmp_path, bert, words, state):
    undisturbed, _ = run_once(model=bert, task=words, method="c3la")
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="c3la")
    cut_off(config)
    partial = config.out / "checkpoints" / "checkpoint-16" / "trainer_state.json"
    partial.unlink()
    if state is not None:
        partial.write_text(state)
    (partial.parent / "adapter_model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(config.out).name == "checkpoint-8"
    train(config, resume=True)
    assert_same_run(config.out, undisturbed)


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step in (9, 10, 100, 99):
        write_json(tmp_path / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json", {})
    assert newest_checkpoint(tmp_path).name == "checkpoint-100"


def test_a_run_is_resumed_with_its_own_options_only(tmp_path, bert, words):
    options = {"model": bert, "task": words, "method": "cla"}
    config = tiny_config(tmp_path / "run", **options)
    cut_off(config)
    before = read_run(config.out)
    with pytest.raises(LopsidedError, match=r"holds a run with rank=4, asked 3; lr=0\.02, asked 0\.5; resume with"):
        train(tiny_config(config.out, **options, rank=3, lr=0.5), resume=True)
    assert read_run(config.out) == before


def test_a_finished_run_is_returned_without_training(run_once, bert, words):
    folder, record = run_once(model=bert, task=words, method="cla")
    config = tiny_config(folder, model=bert, task=words, method="cla")
    stamp = (folder / "run.json").stat().st_mtime_ns
    assert train(config, resume=True, callbacks=[NeverTrain()]) == read_run(folder)
    assert read_run(folder).wall_seconds == record["wall_seconds"]
    assert (folder / "run.json").stat().st_mtime_ns == stamp


def test_a_run_is_not_written_over(run_once, tmp_path, bert, words):
    folder, _ = run_once(model=bert, task=words, method="cla")
    with pytest.raises(LopsidedError, match=r"holds a run already \(finished\); expected a new folder; pass --resume"):
        train(tiny_config(folder, model=bert, task=words, method="cla"))
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla")
    cut_off(config)
    with pytest.raises(LopsidedError, match=r"holds a run already \(failed\)"):
        train(config)


def test_a_run_without_a_checkpoint_leaves_its_folder_free(tmp_path, bert, words):
    wrong = tiny_config(tmp_path / "run", model=bert, task=str(tmp_path / "no-task"), method="cla", steps=2)
    with pytest.raises(LopsidedError, match="no-task"):
        train(wrong)
    assert not wrong.out.exists()
    right = tiny_config(wrong.out, model=bert, task=words, method="cla", steps=2)
    assert train(right).status == "finished"


def test_a_moved_run_goes_on(run_once, tmp_path, bert, words):
    undisturbed, _ = run_once(model=bert, task=words, method="c3la")
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="c3la")
    cut_off(config)
    shutil.move(config.out, tmp_path / "moved")
    train(tiny_config(tmp_path / "moved", model=bert, task=words, method="c3la"), resume=True)
    assert_same_run(tmp_path / "moved", undisturbed)


def test_what_a_killed_process_had_begun_to_write_is_cleared_away(run_once, tmp_path, bert, words):
    undisturbed, _ = run_once(model=bert, task=words, method="c3la")
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="c3la")
    # A run of another method, killed in its first checkpoint, left whole weights there.
    begun = config.out / "checkpoints" / "checkpoint-16"
    begun.mkdir(parents=True)
    (begun / "model.safetensors").write_bytes(b"another method's weights")
    (config.out / ".adapter-abc-old").mkdir()
    (config.out / ".adapter-abc-old" / "adapter_model.safetensors").write_bytes(b"half")
    (config.out / ".run.json-abc").write_text("{")
    (config.out / ".gitignore").write_text("checkpoints/")
    cut_off(config)
    assert sorted(os.listdir(config.out)) == [".gitignore", ".lock", "checkpoints", "run.json", "trajectory"]
    train(config, resume=True)
    assert_same_run(config.out, undisturbed)


def test_predictions_of_a_resumed_run_are_the_undisturbed_ones(run_once, tmp_path, bert, words):
    undisturbed, _ = run_once(model=bert, task=words, method="c3la")
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="c3la")
    cut_off(config, step=29)
    train(config, resume=True)
    mine, theirs = finished_run(config.out).predictions, finished_run(undisturbed).predictions
    for split in theirs:
        assert all((mine[split][column] == theirs[split][column]).all() for column in theirs[split])
