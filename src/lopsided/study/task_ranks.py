"""Methods over several tasks: mean ranks, and the difference of two of them that is needed to tell methods apart.

Notation: `k` methods, `N` tasks. Scores of different tasks have no common scale, so that only their order counts: the
best method of a task has rank 1. Friedman's test asks whether the methods differ at all; Nemenyi's compares all pairs
of mean ranks with one critical difference.

Source:
    Demsar 2006, "Statistical comparisons of classifiers over multiple data sets".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from lopsided.errors import LopsidedError
from lopsided.study.columns import SCORE
from lopsided.study.leaderboard import Leaderboard

LEVEL = 0.05
# Friedman's chi square is off with fewer.
LEAST_METHODS, LEAST_TASKS = 3, 3


@dataclass(frozen=True, kw_only=True)
class TaskRanks:
    """How methods rank over tasks.

    Args:
        mean_ranks: by label, the best first.
        critical_difference: of two mean ranks, at 95 %, over all pairs together; None for too few methods or tasks.
        p: of Friedman's test; None as above.
        apart: the pairs that Nemenyi's test tells apart, the better one first; none where Friedman's test does not
            pass.
        tasks: how many there are.
        left_out: the methods that lack a score on some task.
        sentence: all of it in words.
    """

    mean_ranks: Mapping[str, float]
    critical_difference: float | None
    p: float | None
    apart: tuple[tuple[str, str], ...]
    tasks: int
    left_out: tuple[str, ...]
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return asdict(self)


def ranks_over_tasks(boards: Sequence[Leaderboard]) -> TaskRanks:
    """Rank the methods on each leaderboard by their mean test score, and compare the mean ranks.

    The floor takes part in no ranking. A method without a score on one of the boards is left out of all.

    Args:
        boards: of one model each, or of one model on several tasks; one board is one task.

    Raises:
        LopsidedError: if scikit-posthocs is not installed.
    """
    scores = [_scores(board) for board in boards]
    labels = list(dict.fromkeys(label for each in scores for label in each))
    everywhere = [label for label in labels if all(label in each for each in scores)]
    left_out = tuple(label for label in labels if label not in everywhere)
    # Higher is better in `scores`, and rank 1 is the best.
    ranks = np.array([rankdata([-each[label] for label in everywhere]) for each in scores]).reshape(len(boards), -1)
    means = {label: float(mean) for label, mean in zip(everywhere, ranks.mean(axis=0))} if len(boards) else {}
    ordered = dict(sorted(means.items(), key=lambda item: item[1]))
    critical: float | None = None
    p: float | None = None
    apart: tuple[tuple[str, str], ...] = ()
    if len(everywhere) >= LEAST_METHODS and len(boards) >= LEAST_TASKS:
        critical, p, apart = _compared(ranks, everywhere, means)
    return TaskRanks(
        mean_ranks=ordered,
        critical_difference=critical,
        p=p,
        apart=apart,
        tasks=len(boards),
        left_out=left_out,
        sentence=_sentence(ordered, critical, p, apart, len(boards), left_out),
    )


def critical_difference(methods: int, tasks: int, level: float = LEVEL) -> float:
    """Compute Nemenyi's critical difference q·sqrt(k(k + 1) / 6N), with q of the studentized range over sqrt(2).

    Example:
        >>> round(critical_difference(5, 30), 2)
        1.11
    """
    q = float(studentized_range.ppf(1 - level, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * tasks))


def _scores(board: Leaderboard) -> dict[str, float]:
    sign = next((column.sign for column in board.columns if column.key == SCORE), 1.0)
    cells = {row.label: row.cells[SCORE].mean for row in board.rows if not row.floor and SCORE in row.cells}
    return {label: -sign * mean for label, mean in cells.items() if mean is not None}


def _compared(
    ranks: np.ndarray, labels: Sequence[str], means: Mapping[str, float]
) -> tuple[float, float, tuple[tuple[str, str], ...]]:
    """The critical difference, Friedman's p, and the pairs that Nemenyi's test tells apart."""
    if find_spec("scikit_posthocs") is None:
        raise LopsidedError(
            "ranks over tasks need the package scikit-posthocs, which is not installed; expected the extra 'study'; "
            "pip install lopsided[study]"
        )
    from scikit_posthocs import posthoc_nemenyi_friedman

    critical = critical_difference(len(labels), len(ranks))
    if np.ptp(ranks, axis=1).max() == 0:
        # All methods are equal on every task, and Friedman's statistic is 0 / 0.
        return critical, 1.0, ()
    p = float(friedmanchisquare(*ranks.T).pvalue)
    if p > LEVEL:
        return critical, p, ()
    pairs = posthoc_nemenyi_friedman(ranks).to_numpy()
    apart = [
        (better, worse)
        for i, better in enumerate(labels)
        for j, worse in enumerate(labels)
        if means[better] < means[worse] and pairs[i, j] <= LEVEL
    ]
    return critical, p, tuple(sorted(apart, key=lambda pair: (means[pair[0]], means[pair[1]])))


def _sentence(
    ordered: Mapping[str, float],
    critical: float | None,
    p: float | None,
    apart: Sequence[tuple[str, str]],
    tasks: int,
    left_out: Sequence[str],
) -> str:
    lacking = f" Without a score on some task, and left out: {', '.join(left_out)}." if left_out else ""
    over = f"Over {tasks} task{'' if tasks == 1 else 's'}"
    if not ordered:
        return f"{over} no method has a score on all of them.{lacking}"
    best = next(iter(ordered))
    head = f"{over}, {best} has the best mean rank of {len(ordered)} methods ({ordered[best]:.2f})"
    if critical is None or p is None:
        return f"{head}; mean ranks are compared from {LEAST_METHODS} methods and {LEAST_TASKS} tasks on.{lacking}"
    if p > LEVEL:
        return f"{head}, and nothing tells the methods apart: Friedman's test has p = {p:.2g}.{lacking}"
    worse = [pair[1] for pair in apart if pair[0] == best]
    told = f"worse than {best} at 95 %: {', '.join(worse)}" if worse else "no method can be told from it at 95 %"
    return f"{head}; two mean ranks must differ by {critical:.2f} to be told apart, and {told}.{lacking}"
