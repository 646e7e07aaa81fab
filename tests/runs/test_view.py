"""`Run`: what a run directory says, typed, and what it refuses to be."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from lopsided import METHODS, LopsidedError
from lopsided.runs import Run, finished_run, read_run, run_folders, train
from lopsided.runs.directory import write_predictions, write_run
from lopsided.runs.facts import ChainFacts, Estimate, SplitFigures, StepTime, TaskFacts
from lopsided.runs.saved_diagnosis import DIAGNOSIS, DIAGNOSIS_SCHEMA
from tests.tiny_runs import Cut, PowerCut, tiny_config, whole_record


@pytest.fixture
def written(tmp_path):
    """Writes a finished run's record, and reads it."""

    def write(**sections) -> Run:
        write_run(tmp_path, whole_record(**sections))
        return finished_run(tmp_path)

    return write


def test_every_section_comes_back_as_it_was_written(run_once, bert, words):
    folder, record = run_once(model=bert, task=words, method="c3la")
    run = finished_run(folder)
    assert {split: figures.to_json() for split, figures in run.metrics.items()} == record["metrics"]
    assert run.generalization_error.to_json() == record["generalization_error"]
    assert StepTime.from_json(record["timings"]).to_json() == record["timings"]
    assert (run.step_ms.value, run.timed_steps) == (record["timings"]["median_ms"], record["timings"]["steps"])
    assert run.task.to_json() == record["task"]
    assert run.chain.to_json() == record["chain"]
    assert run.links == record["chain"]["links"] == 4
    assert dataclasses.asdict(run.model) == record["model"]
    assert run.config == tiny_config(folder, model=bert, task=words, method="c3la")
    assert run.method == run.config.resolve_method()
    assert run.losses("validation") == tuple(
        (entry["step"], entry["eval_loss"]) for entry in record["history"] if "eval_loss" in entry
    )
    assert len(run.losses("train")) == sum("loss" in entry for entry in record["history"]) > 0
    assert run.sha256.startswith(run.id)
    assert (run.name, run.seed, run.error, run.nulls) == ("out", 0, None, {})
    assert run.to_json() == record


@pytest.mark.parametrize(
    ("kind", "section"),
    [
        (SplitFigures, {"score": 0.5, "se": None, "loss": 0.25, "rows": 1, "why": {"se": "one row"}}),
        (
            SplitFigures,
            {"score": None, "se": None, "loss": None, "rows": 2, "why": dict.fromkeys(["score", "se", "loss"])},
        ),
        (SplitFigures, {"score": 0.5, "se": 0.1, "loss": 0.25, "rows": 4, "rows_with_loss": 3}),
        (StepTime, {"median_ms": None, "se_ms": None, "steps": 0, "why": {"median_ms": "none", "se_ms": "none"}}),
        (ChainFacts, {"links": 2, "boundaries": [3], "events": [{"step": 3, "link": 1}], "jumps": True}),
        (TaskFacts, whole_record()["task"] | {"shape": "a", "columns": {"text": ["x"]}, "left_out": {"y": "as asked"}}),
        (TaskFacts, whole_record()["task"] | {"shape": ""}),
    ],
)
def test_a_section_is_written_as_it_was_read(kind, section):
    assert json.dumps(kind.from_json(section).to_json()) == json.dumps(section)


def test_a_figure_that_could_not_be_computed_says_why(written):
    figures = {"score": None, "se": None, "loss": 0.5, "rows": 1, "why": {"score": "constant", "se": "constant"}}
    gap = {"value": 0.1, "se": None, "why": {"se": "one row"}}
    run = written(metrics={"test": figures}, generalization_error=gap)
    assert run.metrics["test"].score == Estimate(value=None, why={"value": "constant", "se": "constant"})
    assert run.metrics["test"].loss == Estimate(value=0.5)
    assert run.generalization_error == Estimate(value=0.1, why={"se": "one row"})
    assert run.reasons("metrics", "generalization_error") == {
        "metrics.test.score": "constant",
        "metrics.test.se": "constant",
        "generalization_error.se": "one row",
    }
    assert written(generalization_error=None).generalization_error is None


def test_a_record_of_version_0_1_0_lacks_what_came_later(written):
    run = written()
    assert (run.command, run.best_step, run.wall_seconds, run.task.columns, run.task.shape) == (None,) * 4 + ("",)
    assert (run.diagnosis, run.diagnosis_note, run.chain, run.links) == (None, None, None, 1)


def test_what_only_a_finished_run_has_is_refused(tmp_path):
    write_run(tmp_path, whole_record(status="failed", error="out of memory"))
    run = read_run(tmp_path)
    assert (run.is_finished, run.status, run.error, run.method.name) == (False, "failed", "out of memory", "cla")
    for read in (
        lambda: run.metrics,
        lambda: run.predictions,
        lambda: run.losses("train"),
        lambda: run.reasons("chain"),
    ):
        with pytest.raises(LopsidedError, match="holds a run that failed; expected a finished run"):
            read()
    with pytest.raises(LopsidedError, match="a run that failed; expected a finished run; make one"):
        finished_run(tmp_path)
    with pytest.raises(LopsidedError, match="nowhere holds no run"):
        finished_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda record: record.pop("metrics"), "is not a whole run: expected .*, received none of metrics; train"),
        (lambda record: record.pop("config"), "received none of config"),
        (lambda record: record.update(status="asleep"), "expected a status of a run, received 'asleep'"),
        (lambda record: record.update(method="cla"), "expected an object as method"),
        (lambda record: record.pop("status"), "expected a status of a run, received None"),
    ],
)
def test_a_record_that_is_not_whole_is_refused(tmp_path, spoil, message):
    record = whole_record()
    spoil(record)
    write_run(tmp_path, record)
    with pytest.raises(LopsidedError, match=message):
        read_run(tmp_path)


@pytest.mark.parametrize("parts", [{"name": "x"}, METHODS["cla"].parts() | {"sketch": {"kind": "os.system"}}])
def test_a_method_that_is_no_plain_data_is_refused(written, parts):
    with pytest.raises(LopsidedError, match="method"):
        assert written(method=parts).method


def test_rows_are_read_once_and_when_they_are_asked_for(tmp_path, written):
    run = written()
    with pytest.raises(FileNotFoundError):
        assert run.predictions
    write_predictions(tmp_path, {"test": {"loss": np.array([0.5])}})
    first = run.predictions
    (tmp_path / "predictions.npz").unlink()
    assert run.predictions is first
    assert list(first["test"]["loss"]) == [0.5]


def test_the_diagnosis_is_that_of_this_schema_and_this_state(tmp_path, written):
    run = written()

    def diagnosed(**sections):
        (tmp_path / DIAGNOSIS).write_text(
            json.dumps({"schema": DIAGNOSIS_SCHEMA, "run": {"id": run.id}, "layers": [], **sections})
        )
        return finished_run(tmp_path)

    assert diagnosed().diagnosis["layers"] == []
    assert diagnosed().diagnosis_note is None
    older = diagnosed(schema=0)
    assert (older.diagnosis, older.diagnosis_note) == (
        None,
        f"its diagnosis.json is not of schema 1: run `lopsided diagnose {tmp_path}` again",
    )
    earlier = diagnosed(run={"id": "another"})
    assert earlier.diagnosis is None
    assert "is of an earlier state: run `lopsided diagnose" in earlier.diagnosis_note
    (tmp_path / DIAGNOSIS).write_text("{")
    with pytest.raises(LopsidedError, match=r"diagnosis\.json:1: not JSON .*; diagnose the run again"):
        assert finished_run(tmp_path).diagnosis


def test_the_command_is_recorded_and_kept(tmp_path, bert, words):
    config = tiny_config(tmp_path / "run", model=bert, task=words, method="cla")
    with pytest.raises(PowerCut):
        train(config, callbacks=[Cut(19)], command="lopsided train --method cla")
    assert read_run(config.out).command == "lopsided train --method cla"
    # Another session goes on with the run, and does not make it.
    assert train(config, resume=True).command == "lopsided train --method cla"
    assert train(config, resume=True, command="lopsided train --resume").command == "lopsided train --method cla"


def test_a_run_from_python_has_no_command(run_once, bert, words):
    folder, record = run_once(model=bert, task=words, method="cla", steps=2)
    assert record["command"] is finished_run(folder).command is None


def test_runs_are_found_below_a_folder(tmp_path):
    for name in ("a", "deeper/b", ".hidden/c"):
        (tmp_path / name).mkdir(parents=True)
        write_run(tmp_path / name, whole_record())
    assert run_folders(tmp_path) == [tmp_path / "a", tmp_path / "deeper" / "b"]
    assert run_folders(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(LopsidedError, match=r"without a run\.json; make one with"):
        run_folders(tmp_path / "deeper" / "nothing")
