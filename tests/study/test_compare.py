"""A comparison from end to end, on a tiny model."""

from __future__ import annotations

import errno
import json
from html import escape

import pytest
from transformers import TrainerCallback

from lopsided import METHODS, LopsidedError
from lopsided.runs import finished_run, read_run, session
from lopsided.study import CompareConfig, compare
from tests.tiny_runs import tiny_config

KEYS = [
    *("schema", "title", "command", "model", "task", "task_note", "task_shape", "seeds", "settings", "machine"),
    *("versions", "columns", "rows", "sentences", "decision", "tuning", "created", "wall_seconds"),
]
STUDY = "full head lora lora_plus cola asym_b rac_b cla rcla c3la rc3la"


class Counted(TrainerCallback):
    def __init__(self, trained, method, seed):
        self.trained, self.key = trained, (method, seed)

    def on_train_begin(self, args, state, control, **kwargs):
        self.trained.append(self.key)


def comparison(out, bert, words, *, methods=("head", "lora", "c3la"), seeds=(0, 1), links=2, **options):
    run = tiny_config(out, **{"model": bert, "task": words, "method": "lora", "steps": 8, "evaluations": 2, **options})
    return CompareConfig(run=run, methods=methods, seeds=seeds, links=links)


@pytest.fixture(scope="module")
def compared(tmp_path_factory, bert, words):
    """Three methods with two seeds each: the configuration, the outcome, and what was trained."""
    config, trained = comparison(tmp_path_factory.mktemp("compare") / "out", bert, words), []
    outcome = compare(config, callbacks=lambda method, seed: [Counted(trained, method, seed)])
    return config, outcome, trained


def test_every_method_and_seed_runs_once(compared):
    config, _, trained = compared
    assert trained == [(method, seed) for method in ("head", "lora", "c3la") for seed in (0, 1)]
    for method, seed in trained:
        run = finished_run(config.folder(method, seed))
        assert (run.config.method, run.seed, run.config.links) == (method, seed, 2 if method == "c3la" else None)


def test_results_are_written_as_returned(compared, words):
    config, outcome, _ = compared
    results = json.loads((config.run.out / "results.json").read_text())
    assert results == outcome.to_json()
    assert (results["schema"], results["seeds"], results["task"]) == (1, [0, 1], words)
    assert results["title"] == f"3 methods on {words}"
    assert results["settings"]["steps"] == 8
    assert not {"method", "seed", "out"} & set(results["settings"])
    assert results["wall_seconds"] > 0
    assert results["task_note"]
    assert results["decision"]["sentences"] == results["sentences"]
    assert (outcome.failed, list(results)) == (False, KEYS)


def test_cells_are_means_over_the_runs(compared):
    config, outcome, _ = compared
    results = outcome.to_json()
    for row in results["rows"]:
        runs = [finished_run(config.folder(row["method"], seed)) for seed in (0, 1)]
        assert row["status"] == "ok"
        assert row["runs"] == [f"runs/{row['method']}-seed{seed}" for seed in (0, 1)]
        mean = sum(run.metrics["test"].score.value for run in runs) / 2
        assert row["cells"]["score"]["mean"] == pytest.approx(mean)
        assert row["cells"]["trained_parameters"]["mean"] == runs[0].trained_parameters
        assert row["cells"]["file_bytes"]["mean"] == pytest.approx(sum(run.adapter_bytes for run in runs) / 2)
    assert [row["floor"] for row in results["rows"]] == [True, False, False]
    assert [row["links"] for row in results["rows"]] == [1, 1, 2]


def test_a_comparison_shows_itself_in_a_line_and_as_a_table(compared):
    config, outcome, _ = compared
    assert repr(outcome).startswith(f"Comparison(3 methods on {config.run.task} with {config.run.model}, in ")
    assert repr(outcome).endswith(f": {outcome.leaderboard!r})")
    assert "\n" not in repr(outcome)
    page = outcome._repr_html_()
    places = [page.index(f"<tr><td>{label}</td>") for label in ("head (floor)", "lora", "c3la")]
    assert places == sorted(places)
    assert all(escape(sentence) in page for sentence in (*outcome.notes, *outcome.leaderboard.sentences))


def test_a_comparison_is_not_written_over(compared):
    config, _, _ = compared
    with pytest.raises(LopsidedError, match="holds a comparison already; expected a new folder; pass --resume"):
        compare(config)


def test_resuming_keeps_what_is_finished(compared, bert, words):
    config, outcome, _ = compared
    trained = []
    wider = comparison(config.run.out, bert, words, methods=("head", "lora", "c3la", "cla"))
    stamps = {m: (config.folder(m, 0) / "run.json").stat().st_mtime_ns for m in ("head", "lora", "c3la")}
    again = compare(wider, resume=True, callbacks=lambda method, seed: [Counted(trained, method, seed)])
    assert trained == [("cla", 0), ("cla", 1)]
    assert {m: (config.folder(m, 0) / "run.json").stat().st_mtime_ns for m in stamps} == stamps
    means = [[row.cells["score"].mean for row in each.leaderboard.rows[:3]] for each in (outcome, again)]
    assert means[0] == means[1]
    assert [row.label for row in again.leaderboard.rows][3] == "cla"


def test_a_comparison_cut_off_is_gone_on_with(tmp_path, bert, words):
    config = comparison(tmp_path / "out", bert, words, methods=("head", "lora"), seeds=(0,))

    class Cut(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(config, callbacks=lambda method, seed: [Cut()] if method == "lora" else [])
    assert not (config.run.out / "results.json").exists()
    # Without --resume the finished run would be in the way.
    with pytest.raises(LopsidedError, match="holds a comparison already"):
        compare(config)
    trained = []
    outcome = compare(config, resume=True, callbacks=lambda method, seed: [Counted(trained, method, seed)])
    assert trained == [("lora", 0)]
    assert [row["status"] for row in outcome.to_json()["rows"]] == ["ok", "ok"]


def test_a_run_cut_off_after_its_last_step_is_gone_on_with(tmp_path, monkeypatch, bert, words):
    config = comparison(tmp_path / "out", bert, words, methods=("lora", "head"), seeds=(0,))

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(session, "save_trained", fail)
        assert [absence.label for absence in compare(config).leaderboard.absent] == ["lora", "head"]
    outcome = compare(config, resume=True)
    assert not outcome.failed
    assert outcome.leaderboard.rows[0].cells["step_ms"].mean > 0


def test_other_settings_do_not_pass_off_old_figures(compared, bert, words, tmp_path):
    config = comparison(tmp_path / "out", bert, words, methods=("head",), seeds=(0,), steps=2, evaluations=1)
    compare(config)
    other = comparison(tmp_path / "out", bert, words, methods=("head",), seeds=(0,), steps=3, evaluations=1)
    [absence] = compare(other, resume=True).leaderboard.absent
    assert "holds a run with steps=2, asked 3; resume with its own options" in absence.why


class Crash(TrainerCallback):
    def __init__(self, error):
        self.error = error

    def on_step_end(self, args, state, control, **kwargs):
        raise self.error


@pytest.mark.parametrize(
    ("error", "row"),
    [
        (RuntimeError("out of memory\nmore"), "out of memory"),
        (KeyError("a misspelt field"), "KeyError: 'a misspelt field'"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_method_that_fails_is_a_row_and_the_others_finish(tmp_path, bert, words, error, row):
    config = comparison(tmp_path / "out", bert, words, methods=("cla", "head"), seeds=(0,), steps=2, evaluations=1)
    outcome = compare(config, callbacks=lambda method, seed: [Crash(error)] if method == "cla" else [])
    assert [row["status"] for row in outcome.to_json()["rows"]] == ["failed", "ok"]
    assert outcome.to_json()["rows"][0]["error"] == row
    run = read_run(config.folder("cla", 0))
    assert (run.status, run.error) == ("failed", row)


def test_what_can_not_work_is_refused_before_the_first_method(tmp_path, bert, words):
    # The head and full fine-tuning have no rank.
    names = ("full", "cla", "asym_a", "bernoulli", "head")
    config = comparison(tmp_path / "out", bert, words, methods=names, seeds=(0, 1), rank=40)
    trained = []
    with pytest.raises(LopsidedError) as caught:
        compare(config, callbacks=lambda method, seed: [Counted(trained, method, seed)])
    rank, module = "rank must not exceed the layer's width: r=40,", "bert.encoder.layer.0.attention.self.query"
    assert str(caught.value).splitlines() == [
        f"{name}: {rank} {what}=32 in {module}; lower r or exclude the module"
        for name, what in (("cla", "d_in"), ("asym_a", "d_out"), ("bernoulli", "min(d_out, d_in)"))
    ]
    assert trained == []
    assert not config.run.out.exists()


def test_a_resumed_comparison_asks_only_for_what_is_left(tmp_path, bert, words):
    config = comparison(tmp_path / "out", bert, words, methods=("head",), seeds=(0,), steps=2, evaluations=1, rank=40)
    compare(config)
    wider = comparison(
        tmp_path / "out", bert, words, methods=("head", "cla"), seeds=(0,), steps=2, evaluations=1, rank=40
    )
    with pytest.raises(LopsidedError, match=r"^rank must not exceed the layer's width: r=40"):
        compare(wider, resume=True)
    assert not compare(config, resume=True).failed


@pytest.mark.parametrize(
    ("error", "row"),
    [(RuntimeError("out of memory\nmore"), "out of memory"), (OSError(), "OSError"), (KeyError("x"), "KeyError: 'x'")],
)
def test_what_a_run_may_end_with_is_a_row(tmp_path, monkeypatch, bert, words, error, row):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("lopsided.study.run_cell.train", fail)
    outcome = compare(comparison(tmp_path / "out", bert, words, seeds=(0,)))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(each["status"], each["error"]) for each in results["rows"]] == [("failed", row)] * 3
    assert results == outcome.to_json()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_the_process_is_no_failure_of_a_method(tmp_path, monkeypatch, bert, words, error):
    def end(*args, **kwargs):
        raise error

    monkeypatch.setattr("lopsided.study.run_cell.train", end)
    with pytest.raises(type(error)):
        compare(comparison(tmp_path / "out", bert, words, seeds=(0,)))
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("lora", "nope")}, "unknown method 'nope'; expected one of full"),
        ({"methods": ("lora", "lora")}, "methods must be distinct, got lora, lora"),
        ({"seeds": (0, 0)}, r"seeds must be distinct whole numbers, one or more, got \[0, 0\]"),
        ({"seeds": ()}, "seeds must be distinct whole numbers"),
        ({"seeds": (0, -1)}, r"seed must lie in \[0, 2\^32\), got -1"),
        ({"links": 9}, "links must not exceed the steps: links=9, steps=8"),
    ],
)
def test_bad_input_stops_all_methods_before_the_first(tmp_path, bert, words, options, message):
    with pytest.raises(LopsidedError, match=message):
        comparison(tmp_path / "out", bert, words, **options)
    assert not (tmp_path / "out").exists()


def test_the_study_is_the_default(tmp_path, bert, words):
    names = comparison(tmp_path, bert, words, methods=("study",)).names
    assert set(names) == set(STUDY.split())
    assert list(names) == [name for name in METHODS if name in names]


def test_links_by_steps_are_for_the_chained(tmp_path, bert, words):
    config = comparison(tmp_path, bert, words, method="c3la", every=4, links=None)
    assert (config.config_of("c3la", 0).every, config.config_of("lora", 0).every) == (4, None)
