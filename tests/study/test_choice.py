"""Which method a leaderboard names, with which bound and in which words; on runs made up for the purpose."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lopsided.study.board_rows import Entry
from lopsided.study.comparison import board_of_comparison
from lopsided.study.leaderboard import leaderboard
from tests.study.made_runs import ROWS, TASK, MadeRun, made_run, right, scored, seeds, written

ONE_SEED = (
    "This is one seed: the bound is about these very runs on other rows, and another seed may order the methods "
    "differently; --seeds 0,1,2 tells more."
)


@pytest.fixture
def board(tmp_path):
    """The leaderboard of methods' runs by seed."""
    return lambda runs, **options: board_of_comparison(written(tmp_path, runs), {}, **options)


def test_a_clear_winner_is_to_be_taken(board):
    found = board({"lora": [scored(0.6)], "cla": [made_run("cla", right(first=90))]})
    assert found.sentences == (
        "Take cla: its test accuracy is at most 0 points worse than the best, at 95 %, and every other method is shown "
        "to be worse.",
        ONE_SEED,
    )
    assert (found.decision.u, found.decision.decided, found.decision.needed) == (0.0, True, ())


def test_a_failed_test_for_a_difference_is_no_reason_to_take_the_cheaper(board):
    # 3 rows of 100 do not tell cla from lora, and it is the cheaper one; it may be 6 points worse.
    runs = {
        "lora": [scored(0.9, trained_parameters=200)],
        "cla": [made_run("cla", right(first=87), trained_parameters=100)],
    }
    found = board(runs)
    assert found.decision.possible == ("lora", "cla")
    assert (found.decision.chosen, found.decision.within) == ("lora", ("lora",))
    assert found.sentences[0] == (
        "Take lora: its test accuracy is at most 0.25 points worse than the best, at 95 %, and the margin is 1 point."
    )


def test_within_the_margin_the_cheapest_is_to_be_taken(board):
    runs = {
        "lora": [scored(0.90, trained_parameters=200)],
        "cla": [made_run("cla", right(first=88), trained_parameters=1500)],
        "paca": [made_run("paca", right(first=89), trained_parameters=100)],
        "full": [made_run("full", right(first=50), trained_parameters=10)],
        "head": [made_run("head", right(first=10), trained_parameters=1)],
    }
    found = board(runs, margin=10.0)
    assert found.decision.within == ("lora", "cla", "paca")
    assert found.sentences[0] == (
        f"Take paca: its test accuracy is at most {found.decision.u:.1f} points worse than the best, at 95 %, and the "
        "margin is 10 points. Of the 3 methods within the margin, it is the cheapest to train: 100 trained "
        "numbers and 0 MiB kept for backward."
    )
    # The mark goes to those that are within the margin, and to those that may be the best.
    assert {row.label: row.cells["score"].mark for row in found.rows} == {
        **{"lora": "best", "cla": "tied", "paca": "tied"},
        **{"full": None, "head": None},
    }


def test_of_one_size_the_lighter_and_of_equal_parts_the_first(board, tmp_path):
    lighter = {"lora": [scored(0.9)], "cla": [made_run("cla", right(first=90), kept_bytes=900)]}
    assert board(lighter, margin=10.0).decision.chosen == "cla"
    faster = {"median_ms": 9.0, "se_ms": 0.1, "steps": 27}
    runs = {"rcla": [made_run("rcla", right(first=90))], "paca": [made_run("paca", right(first=90), timings=faster)]}
    found = board_of_comparison(written(tmp_path / "equal", runs), {}, margin=10.0)
    assert found.decision.chosen == "rcla"


def test_undecided_says_what_would_decide(board):
    found = board({"lora": [scored(0.9)], "cla": [made_run("cla", right(last=88))]})
    (option,) = found.decision.needed
    assert option.seeds == 1
    assert option.rows > ROWS
    assert found.sentences == (
        f"Not decided within the margin of 1 point: lora has the best test accuracy of these runs, and is at most "
        f"{found.decision.u:.1f} points worse than the best, at 95 %. About {option.rows:,} test rows would decide it "
        "for these runs.",
        ONE_SEED,
    )


def test_several_seeds_are_in_the_bound(board):
    runs = {"lora": [scored(s) for s in (0.8, 0.7, 0.9)], "cla": [scored(s) for s in (0.78, 0.72, 0.88)]}
    found = board(runs)
    first, second = found.sentences
    assert first.startswith("Not decided within the margin of 1 point: lora has the best test accuracy of these runs")
    assert "would decide it" in first
    assert second == "The bound allows for other seeds and other rows, and comes from 3 seeds and 100 test rows."
    # Of the same runs as one seed's each, no seed is in the bound.
    alone = leaderboard([Entry(label=row.label, runs=row.runs[:1]) for row in found.rows])
    assert alone.decision.u < found.decision.u


def test_seeds_that_a_method_lacks_are_left_out_and_said(tmp_path):
    entries = [
        Entry(label="lora", runs=tuple(seeds(tmp_path, [scored(0.8), scored(0.7), scored(0.9)]))),
        Entry(label="cla", runs=tuple(seeds(tmp_path, [scored(0.7), scored(0.75)]))),
    ]
    found = leaderboard(entries)
    assert found.decision.seeds == (0, 1)
    assert found.sentences[1].endswith("Only seeds that all methods have were used: 0, 1.")
    apart = [entries[0], Entry(label="cla", runs=tuple(seeds(tmp_path, [scored(0.5)] * 5)[3:]))]
    assert leaderboard(apart).sentences == (
        "There is no choice without a bound, and none can be given: the methods have no seed in common.",
    )


# -- the floor -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_where_no_method_beats_the_floor_nothing_else_is_said(board, count):
    runs = {
        "head": [made_run("head", right(first=80))] * count,
        "lora": [made_run("lora", right(first=85))] * count,
        "cla": [made_run("cla", right(first=40))] * count,
    }
    found = board(runs)
    assert found.sentences == (
        "No method beats the floor: none is shown to have a better test accuracy than head (80.0 %).",
    )
    assert (found.decision.chosen, found.decision.beats_floor, found.decision.floor) == (None, False, "head")


def test_a_method_below_the_floor_is_not_named_though_it_is_within_the_margin(board):
    runs = {
        "head": [made_run("head", right(first=60))],
        "lora": [made_run("lora", right(first=90), trained_parameters=200)],
        # The cheapest one of a margin that holds everything.
        "cla": [made_run("cla", right(first=50), trained_parameters=100)],
    }
    found = board(runs, margin=90.0)
    assert (found.decision.chosen, found.decision.within) == ("lora", ("lora",))
    alone = board_of_comparison({"lora": [found.rows[1].runs[0].folder], "head": [found.rows[0].runs[0].folder]}, {})
    assert alone.sentences == (
        "lora is the only method that competed and finished, so there is nothing to choose from.",
    )
    assert alone.decision.chosen == "lora"


def test_the_only_method_is_no_choice_either_below_the_floor(board):
    found = board({"head": [made_run("head", right(first=60))], "lora": [scored(0.5)]})
    assert found.sentences[0].startswith("No method beats the floor: ")
    assert found.decision.chosen is None


# -- other metrics -------------------------------------------------------------------------------------------


def losing(loss: float, method: str = "lora", noise: float = 0.01) -> MadeRun:
    """A run of a language model with about this loss on each row, and a perplexity of exp of it."""
    run = made_run(method, task={**TASK, "kind": "generation", "metric": PERPLEXITY, "rows": {"test": ROWS}})
    losses = loss + noise * np.random.RandomState(round(1e4 * loss)).standard_normal(ROWS)
    run.rows["test"] = {"loss": losses, "tokens": np.full(ROWS, 7)}
    run.record["metrics"]["test"] |= {"score": float(np.exp(losses.mean())), "se": 0.1}
    return run


PERPLEXITY = {"name": "perplexity", "greater_is_better": False}


def test_a_perplexity_is_judged_by_percent_and_lower_is_better(board, tmp_path):
    found = board({"lora": [losing(3.0)], "cla": [losing(2.9, "cla")]})
    assert (found.decision.chosen, found.decision.u) == ("cla", 0.0)
    near = [losing(3.0), losing(3.004, "cla")]
    near[1].record["trained_parameters"] = 50
    close = board_of_comparison(
        written(found.rows[0].runs[0].folder.parent / "near", {"lora": near[:1], "cla": near[1:]}), {}
    )
    # 0.4 % worse, and errors of a tenth of a percent.
    assert close.decision.chosen == "cla"
    assert close.decision.u == pytest.approx(0.4 + 1.66 * 0.1 * 2**0.5, abs=0.25)
    assert f"at most {close.decision.u:.2g} % worse than the best" in close.sentences[0]
    assert "the margin is 1 %" in close.sentences[0]


def test_a_score_without_a_closed_form_is_jackknifed(board):
    matthews = {**TASK, "metric": {"name": "matthews_correlation", "greater_is_better": True}, "rows": {"test": ROWS}}
    runs = {"lora": [scored(0.9, task=matthews)], "cla": [scored(0.6, method="cla", task=matthews)]}
    found = board(runs)
    assert (found.decision.chosen, found.decision.u) == ("lora", 0.0)


# -- what cannot be bounded, and where it is shown -------------------------------------------------------------


def test_runs_on_different_rows_have_no_bound(board):
    others = [scored(0.8, method="cla"), scored(0.7, method="cla")]
    others[1].rows["test"]["label"] = others[1].rows["test"]["label"][::-1]
    found = board({"lora": [scored(0.9)] * 2, "cla": others})
    assert found.sentences[0].endswith("none can be given: the runs were tested on different rows: 'label' differs.")
    assert found.decision.chosen is None


def test_the_decision_is_json(board):
    decision = board({"lora": [scored(0.9)], "cla": [scored(0.8)]}).decision_json()
    assert json.loads(json.dumps(decision, allow_nan=False)) == decision
    assert decision.keys() >= {"chosen", "u", "unit", "margin", "decided", "needed", "floor", "sentences"}
    assert (decision["unit"], decision["seeds"], decision["rows"]) == ("points", [0], 100)
