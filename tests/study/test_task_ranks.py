"""Mean ranks over tasks, against the formula and on boards whose order is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lopsided.errors import LopsidedError
from lopsided.study import task_ranks
from lopsided.study.board_cells import BoardCell
from lopsided.study.board_rows import Row
from lopsided.study.columns import columns_of
from lopsided.study.leaderboard import Leaderboard
from lopsided.study.task_ranks import critical_difference, ranks_over_tasks
from tests.report.example import MadeRow


def board(metric: str = "accuracy", greater_is_better: bool = True, **means: float | None) -> Leaderboard:
    rows: list[Row] = [
        MadeRow(label=label, runs=(), cells={"score": BoardCell(mean=mean)}, is_floor=label == "head")
        for label, mean in means.items()
    ]
    return Leaderboard(columns=columns_of(metric, greater_is_better), rows=tuple(rows))


def test_a_steady_order_over_many_tasks_is_told():
    shifts = np.random.RandomState(0).rand(12)
    boards = [board(head=0.99, full=s + 0.3, lora=s + 0.2, cla=s + 0.1, paca=s) for s in shifts]
    found = ranks_over_tasks(boards)
    assert dict(found.mean_ranks) == {"full": 1.0, "lora": 2.0, "cla": 3.0, "paca": 4.0}
    assert found.critical_difference == pytest.approx(critical_difference(4, 12))
    assert ("full", "paca") in found.apart
    assert ("full", "lora") not in found.apart
    # Nemenyi's p and the critical difference are one test.
    assert set(found.apart) == {
        (a, b)
        for a, first in found.mean_ranks.items()
        for b, second in found.mean_ranks.items()
        if second - first >= found.critical_difference
    }
    assert found.sentence == (
        "Over 12 tasks, full has the best mean rank of 4 methods (1.00); two mean ranks must differ by "
        f"{found.critical_difference:.2f} to be told apart, and worse than full at 95 %: cla, paca."
    )
    json.dumps(found.to_json(), allow_nan=False)


def test_chance_tells_nothing_and_lower_may_be_better():
    boards = [board(a=0.1, b=0.2, c=0.3), board(a=0.3, b=0.1, c=0.2), board(a=0.2, b=0.3, c=0.1)]
    assert "nothing tells the methods apart" in ranks_over_tasks(boards).sentence
    low = [board("perplexity", False, a=3.0, b=5.0, c=9.0)] * 4
    assert list(ranks_over_tasks(low).mean_ranks) == ["a", "b", "c"]
    assert ranks_over_tasks([board(a=0.5, b=0.5, c=0.5)] * 3).p == 1.0


def test_what_is_missing_is_left_out_and_said():
    boards = [board(a=0.1, b=0.2, c=None), board(a=0.3, b=0.1, c=0.2)]
    found = ranks_over_tasks(boards)
    assert found.left_out == ("c",)
    assert (found.critical_difference, found.p, found.apart) == (None, None, ())
    assert found.sentence.endswith("from 3 methods and 3 tasks on. Without a score on some task, and left out: c.")
    assert "no method has a score on all of them" in ranks_over_tasks([board(a=0.1), board(b=0.1)]).sentence


def test_without_the_library_it_says_so(monkeypatch):
    monkeypatch.setattr(task_ranks, "find_spec", lambda name: None)
    with pytest.raises(LopsidedError, match=r"pip install lopsided\[study\]"):
        ranks_over_tasks([board(a=0.1, b=0.2, c=0.3)] * 3)


def test_the_critical_difference_is_demsars():
    # Table 5 of the paper: q of 2 to 5 methods at 0.05.
    for methods, q in ((2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728)):
        assert critical_difference(methods, 1) == pytest.approx(q * (methods * (methods + 1) / 6) ** 0.5, rel=1e-3)
