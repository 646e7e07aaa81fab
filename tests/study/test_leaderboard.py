"""When methods can't be told apart, and what the table makes of it; on runs made up for the purpose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lopsided import METHODS
from lopsided.runs.directory import write_predictions, write_run
from lopsided.study.columns import UNTOLD, Column, Run, columns
from lopsided.study.leaderboard import read_finished, sentences, table

ACCURACY = {"name": "accuracy", "greater_is_better": True}
PERPLEXITY = {"name": "perplexity", "greater_is_better": False}
ROWS = 100


def column(key: str, metric: dict[str, Any] = ACCURACY) -> Column:
    return next(c for c in columns(metric) if c.key == key)


def right(*, first: int = 0, last: int = 0) -> np.ndarray:
    """Which of the 100 rows are answered rightly."""
    answered = np.zeros(ROWS, bool)
    answered[:first] = True
    answered[ROWS - last :] |= last > 0
    return answered


def made_run(method: str = "lora", answered: np.ndarray | None = None, **fields: Any) -> Run:
    """A finished run that answers the given rows rightly."""
    answered = right(first=50) if answered is None else answered
    labels = np.arange(ROWS) % 2
    score = float(answered.mean())
    rows = {"prediction": np.where(answered, labels, 1 - labels), "label": labels, "loss": np.ones(ROWS)}
    figures = {"score": score, "se": (score * (1 - score) / ROWS) ** 0.5, "loss": 1.0, "rows": ROWS}
    record = {
        "schema": 1,
        "status": "finished",
        "method": METHODS[method].parts(),
        "task": {"metric": ACCURACY, "out_of_domain": []},
        "learning_rate": 1e-3,
        "trained_parameters": 100,
        "metrics": {"test": figures},
        "generalization_error": {"value": 0.1, "se": 0.01},
        "timings": {"median_ms": 10.0, "se_ms": 0.1, "steps": 27},
        "kept_bytes": 1000,
        "adapter_bytes": 400,
        "chain": {"links": 4} if METHODS[method].chain else None,
    }
    return Run({**record, **fields}, {"test": rows})


def scored(score: float, **fields: Any) -> Run:
    return made_run(answered=right(first=round(score * ROWS)), **fields)


# -- tied or not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("best", "other", "tied"),
    [
        # d_i = 1 in 10 rows of 100: 0.10 against twice sqrt(0.1 · 0.9 / 100) = 0.06.
        (right(first=80), right(first=70), False),
        # The same two scores on rows that hardly overlap: d_i = ±1 in 50 rows, twice their error is 0.14.
        (right(first=80), right(last=70), True),
        # 0.03 against twice sqrt(0.03 · 0.97 / 100) = 0.034.
        (right(first=80), right(first=77), True),
        (right(first=80), right(first=80), True),
    ],
)
def test_one_seed_ties_within_two_paired_standard_errors(best, other, tied):
    assert column("score").tied([made_run(answered=best)], [made_run(answered=other)]) is tied


@pytest.mark.parametrize(
    ("best", "other", "tied"),
    [
        # Differences 0.10, 0.10, 0.13: mean 0.11, t(0.975, 2) · 0.01 = 0.043.
        ([0.8, 0.7, 0.9], [0.7, 0.6, 0.77], False),
        # Differences 0.30, 0.00, 0.03: the same mean, and an interval of ±0.41.
        ([0.8, 0.7, 0.9], [0.5, 0.7, 0.87], True),
        # Differences 0.04, 0.06: t(0.975, 1) is 12.7, so that two seeds tell little.
        ([0.8, 0.8], [0.76, 0.74], True),
        ([0.8, 0.6], [0.8, 0.6], True),
    ],
)
def test_several_seeds_tie_when_a_paired_interval_holds_zero(best, other, tied):
    assert column("score").tied([scored(s) for s in best], [scored(s) for s in other]) == tied


def test_pairs_are_by_seed():
    # Sorted, these would differ by 0.1 in each pair.
    best, other = [scored(s) for s in (0.9, 0.7, 0.8)], [scored(s) for s in (0.6, 0.8, 0.7)]
    assert column("score").tied(best, other)
    assert not column("score").tied(sorted(best, key=_score), sorted(other, key=_score))


def _score(run: Run) -> float:
    return run.record["metrics"]["test"]["score"]


def test_counts_tie_only_when_equal():
    for runs in (1, 3):
        few, many = [scored(0.5, trained_parameters=100)] * runs, [scored(0.5, trained_parameters=101)] * runs
        assert column("trained_parameters").tied(few, few)
        assert not column("trained_parameters").tied(few, many)


def test_times_and_gaps_have_errors_of_their_own():
    fast = made_run(timings={"median_ms": 10.0, "se_ms": 0.3, "steps": 27})
    slow = made_run(timings={"median_ms": 11.0, "se_ms": 0.4, "steps": 27})
    slower = made_run(timings={"median_ms": 11.1, "se_ms": 0.4, "steps": 27})
    # Twice hypot(0.3, 0.4) is 1.
    assert column("step_ms").tied([fast], [slow])
    assert not column("step_ms").tied([fast], [slower])
    small = made_run(generalization_error={"value": 0.10, "se": 0.03})
    large = made_run(generalization_error={"value": 0.21, "se": 0.04})
    assert not column("generalization_error").tied([small], [large])


def test_a_cell_has_the_error_of_its_seeds():
    [one] = [scored(0.8)]
    assert column("score").cell([one]) == {"mean": 0.8, "se": pytest.approx(0.04), "mark": None}
    cell = column("score").cell([scored(0.8), scored(0.7), scored(0.9)])
    assert cell == {"mean": pytest.approx(0.8), "se": pytest.approx(0.1 / 3**0.5), "mark": None}
    assert column("ood_score").cell([one]) is None
    assert column("score").cell([]) is None


def test_out_of_domain_is_the_mean_over_domains():
    def elsewhere(*answers: np.ndarray) -> Run:
        runs = {f"d{i}": made_run(answered=answered) for i, answered in enumerate(answers)}
        run = made_run(task={"metric": ACCURACY, "out_of_domain": sorted(runs)})
        run.record["metrics"] |= {name: made.record["metrics"]["test"] for name, made in runs.items()}
        run.rows.update({name: made.rows["test"] for name, made in runs.items()})
        return run

    ood = column("ood_score")
    good = elsewhere(right(first=80), right(first=60))
    assert ood.cell([good])["mean"] == pytest.approx(0.7)
    assert ood.cell([good])["se"] == pytest.approx((0.8 * 0.2 / 100 + 0.6 * 0.4 / 100) ** 0.5 / 2)
    # Differences 0.10 and 0: 0.05 against twice 0.03 / 2.
    assert not ood.tied([good], [elsewhere(right(first=70), right(first=60))])
    # And 0.02: 0.01 against twice 0.014 / 2.
    assert ood.tied([good], [elsewhere(right(first=78), right(first=60))])


def test_the_direction_is_the_metrics():
    assert column("score").better == "high"
    assert (column("score", PERPLEXITY).better, column("score", PERPLEXITY).unit) == ("low", "perplexity")


# -- the table -----------------------------------------------------------------------------------------------


def written(out: Path, runs: dict[str, Sequence[Run | None]]) -> dict[str, list[Path]]:
    """The runs as directories; None is one that did not finish."""
    folders: dict[str, list[Path]] = {}
    for name, by_seed in runs.items():
        for seed, run in enumerate(by_seed):
            folder = out / "runs" / f"{name}-seed{seed}"
            folder.mkdir(parents=True)
            folders.setdefault(name, []).append(folder)
            write_run(folder, {"schema": 1, "status": "failed"} if run is None else run.record)
            if run is not None:
                write_predictions(folder, run.rows)
    return folders


def marks(rows: Sequence[dict[str, Any]], key: str) -> dict[str, str | None]:
    return {row["method"]: row["cells"][key]["mark"] for row in rows if row["status"] == "ok"}


def test_best_and_tied_are_marked_and_the_floor_does_not_compete(tmp_path):
    runs = {
        "head": [made_run("head", right(first=99), trained_parameters=1)],
        "lora": [made_run("lora", right(first=90), trained_parameters=200)],
        "cla": [made_run("cla", right(first=88), trained_parameters=100)],
        "full": [made_run("full", right(first=60), trained_parameters=900)],
    }
    cols, rows = table(tmp_path, written(tmp_path, runs), {})
    assert [row["method"] for row in rows] == ["head", "lora", "cla", "full"]
    assert [row["floor"] for row in rows] == [True, False, False, False]
    assert marks(rows, "score") == {"head": None, "lora": "best", "cla": "tied", "full": None}
    assert marks(rows, "trained_parameters") == {"head": None, "lora": None, "cla": "best", "full": None}
    assert marks(rows, "step_ms") == {"head": None, "lora": "best", "cla": "tied", "full": "tied"}
    # No domains, no column.
    assert [c["key"] for c in cols] == [
        "trained_parameters",
        "score",
        "generalization_error",
        "step_ms",
        "kept_bytes",
        "file_bytes",
    ]
    assert rows[1]["runs"] == ["runs/lora-seed0"]
    assert (rows[1]["trains"], rows[1]["links"], rows[1]["source"]) == ("A and B", 1, METHODS["lora"].source)


def test_the_table_marks_by_seeds_when_there_are_several(tmp_path):
    runs = {
        "lora": [scored(s) for s in (0.8, 0.7, 0.9)],
        "cla": [scored(s) for s in (0.7, 0.6, 0.77)],
        "full": [scored(s) for s in (0.5, 0.7, 0.87)],
    }
    _, rows = table(tmp_path, written(tmp_path, runs), {})
    assert marks(rows, "score") == {"lora": "best", "cla": None, "full": "tied"}
    assert len(rows[0]["runs"]) == 3


def test_a_method_that_failed_has_a_row_and_does_not_compete(tmp_path):
    runs = {
        "lora": [scored(0.8), scored(0.8)],
        # One seed of two did not finish.
        "cla": [scored(0.9), None],
        # Its folders hold runs of other settings, which the error says.
        "full": [scored(0.95), scored(0.95)],
        "rcla": [None, None],
    }
    errors = {"cla": "the loss is nan at step 3", "full": "holds a run with rank=4, asked 3"}
    _, rows = table(tmp_path, written(tmp_path, runs), errors)
    assert {row["method"]: (row["status"], row["error"]) for row in rows} == {
        "lora": ("ok", None),
        "cla": ("failed", "the loss is nan at step 3"),
        "full": ("failed", "holds a run with rank=4, asked 3"),
        "rcla": ("failed", "did not finish"),
    }
    assert marks(rows, "score") == {"lora": "best"}
    assert all(row["cells"] == {} and row["runs"] == [] for row in rows if row["status"] == "failed")


def test_nothing_finished(tmp_path):
    cols, rows = table(tmp_path, written(tmp_path, {"lora": [None]}), {"lora": "why"})
    assert (cols, [row["error"] for row in rows]) == ([], ["why"])
    assert sentences(cols, rows, 1) == ["No method finished, so there is nothing to choose from."]


def test_methods_of_equal_parts_are_named_as_the_same(tmp_path):
    runs = {name: [made_run(name)] for name in ("lora", "rcla", "paca", "lora_fa", "cpaca")}
    _, rows = table(tmp_path, written(tmp_path, runs), {})
    same = {row["method"]: row["same_as"] for row in rows}
    assert same == {"lora": None, "rcla": None, "paca": "rcla", "lora_fa": None, "cpaca": None}


def test_another_learning_rate_is_another_run(tmp_path):
    runs = {"rcla": [made_run("rcla")], "paca": [made_run("paca", learning_rate=2e-3)]}
    _, rows = table(tmp_path, written(tmp_path, runs), {})
    assert [row["same_as"] for row in rows] == [None, None]


def test_a_directory_without_a_finished_run_is_none(tmp_path):
    assert read_finished(tmp_path) is None
    [folder] = written(tmp_path, {"lora": [None]})["lora"]
    assert read_finished(folder) is None


# -- the sentences -------------------------------------------------------------------------------------------


def said(tmp_path: Path, runs: dict[str, Sequence[Run | None]], seeds: int = 1) -> list[str]:
    cols, rows = table(tmp_path, written(tmp_path, runs), {})
    return sentences(cols, rows, seeds)


def test_a_clear_winner_is_to_be_taken(tmp_path):
    first, second = said(tmp_path, {"lora": [scored(0.6)], "cla": [made_run("cla", right(first=90))]})
    assert first == "Take cla: its test accuracy is the best, and the data tell every other method from it."
    assert second.startswith("This is one seed")


def test_among_equals_the_smallest_is_to_be_taken(tmp_path):
    runs = {
        "lora": [scored(0.90, trained_parameters=200)],
        "cla": [made_run("cla", right(first=88), trained_parameters=1500)],
        "paca": [made_run("paca", right(first=89), trained_parameters=100)],
        "full": [made_run("full", right(first=50), trained_parameters=10)],
        "head": [made_run("head", right(first=90), trained_parameters=1)],
    }
    first, _ = said(tmp_path, runs)
    assert first == (
        "Take paca: its test accuracy can't be told from the best (lora), and of the 3 methods of which that holds it "
        "is the cheapest to train: 100 numbers, and 0 MiB kept for backward."
    )


def test_among_equals_of_one_size_the_lighter_is_to_be_taken(tmp_path):
    runs = {"lora": [scored(0.9)], "cla": [made_run("cla", right(first=90), kept_bytes=900)]}
    assert said(tmp_path, runs)[0].startswith("Take cla: its test accuracy can't be told from the best (lora)")


def test_of_equal_parts_the_first_is_to_be_taken(tmp_path):
    faster = {"median_ms": 9.0, "se_ms": 0.1, "steps": 27}
    runs = {"rcla": [made_run("rcla", right(first=90))], "paca": [made_run("paca", right(first=90), timings=faster)]}
    assert said(tmp_path, runs)[0].startswith("Take rcla: ")


def test_several_seeds_are_named(tmp_path):
    _, second = said(tmp_path, {"lora": [scored(0.8), scored(0.9)]}, seeds=2)
    assert second == "Ties come from paired intervals over 2 seeds."


# -- figures that could not be computed ----------------------------------------------------------------------

REASON = "all predictions are equal, and nothing correlates with a constant"


def undefined(method: str = "lora", why: dict[str, str] | None = None, **fields: Any) -> Run:
    """A run whose test score is not defined, as this version records it, or with NaN as version 0.1.0 did."""
    number = None if why else float("nan")
    figures = {"score": number, "se": number, "loss": 1.0, "rows": ROWS, **({"why": why} if why else {})}
    return made_run(method, metrics={"test": figures}, **fields)


@pytest.mark.parametrize("why", [{"score": REASON, "se": REASON}, None])
@pytest.mark.parametrize("order", [("lora", "cla", "full"), ("cla", "lora", "full"), ("full", "cla", "lora")])
def test_a_score_that_is_missing_is_a_dash_and_never_the_best(tmp_path, why, order):
    made = {"lora": [undefined(why=why)], "cla": [scored(0.9)], "full": [scored(0.6)]}
    cols, rows = table(tmp_path, written(tmp_path, {name: made[name] for name in order}), {})
    found = {row["method"]: row["cells"]["score"] for row in rows}
    assert (found["lora"]["mean"], found["lora"]["se"], found["lora"]["mark"]) == (None, None, None)
    assert found["lora"]["why"]["mean"] == (REASON if why else UNTOLD)
    assert (found["cla"]["mark"], found["full"]["mark"]) == ("best", None)
    # Its other figures compete as before.
    assert all(row["cells"]["step_ms"]["mark"] for row in rows)
    first, _ = sentences(cols, rows, 1)
    assert first.startswith("Take cla: its test accuracy is the best")
    assert first.endswith("Without a test accuracy, and left out: lora.")


def test_no_score_at_all_is_said(tmp_path):
    cols, rows = table(tmp_path, written(tmp_path, {"lora": [undefined()], "cla": [undefined("cla")]}), {})
    assert "score" in [column["key"] for column in cols]
    assert marks(rows, "score") == {"lora": None, "cla": None}
    assert sentences(cols, rows, 1) == ["No method has a test accuracy, so there is nothing to choose from."]


def test_a_mean_over_seeds_of_which_one_is_missing_is_not_printed(tmp_path):
    runs = {"lora": [scored(0.8), undefined(why={"score": REASON, "se": REASON})], "cla": [scored(0.7), scored(0.7)]}
    _, rows = table(tmp_path, written(tmp_path, runs), {})
    assert rows[0]["cells"]["score"]["mean"] is None
    assert rows[0]["cells"]["score"]["why"] == {"mean": f"1 of 2 seeds have no figure: {REASON}"}


@pytest.mark.parametrize("seeds", [1, 2])
def test_without_a_standard_error_the_data_can_t_tell_methods_apart(seeds):
    one = {"test": {key: array[:1] for key, array in made_run().rows["test"].items()}}
    best, other = (Run(scored(score).record, one) for score in (0.9, 0.1))
    if seeds == 1:
        assert column("score").tied([best], [other])
    missing = made_run(timings={"median_ms": 10.0, "se_ms": None, "steps": 1, "why": {"se_ms": "one step"}})
    slow = made_run(timings={"median_ms": 99.0, "se_ms": 0.1, "steps": 9})
    if seeds == 1:
        assert column("step_ms").tied([missing], [slow])
    assert column("step_ms").cell([missing]) == {"mean": 10.0, "se": None, "mark": None, "why": {"se": "one step"}}


def test_a_domain_without_a_score_leaves_no_mean_over_domains():
    figures = made_run().record["metrics"]["test"]
    run = made_run(task={"metric": ACCURACY, "out_of_domain": ["a", "b"]})
    run.record["metrics"] |= {"a": figures, "b": {**figures, "score": None, "why": {"score": REASON}}}
    cell = column("ood_score").cell([run])
    assert cell["mean"] is None
    assert cell["why"] == {"mean": f"1 of 2 domains have none (b: {REASON})"}


def test_a_step_time_that_is_missing_does_not_take_the_column_from_the_others(tmp_path):
    untimed = {"median_ms": None, "se_ms": None, "steps": 0, "why": {"median_ms": "no step was timed"}}
    cols, rows = table(tmp_path, written(tmp_path, {"lora": [made_run(timings=untimed)], "cla": [made_run("cla")]}), {})
    assert "step_ms" in [found["key"] for found in cols]
    assert rows[0]["cells"]["step_ms"]["why"] == {"mean": "no step was timed"}
    assert marks(rows, "step_ms") == {"lora": None, "cla": "best"}
    assert sentences(cols, rows, 1)[0].startswith("Take lora")
