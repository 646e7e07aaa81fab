"""The columns of a comparison, and when two methods can't be told apart.

Each column reads one figure from a run's record. Two methods are *tied* in a column if the data can't tell
them apart: with one seed, if their difference is within two standard errors of that difference; with several
seeds, if a paired 95 % t-interval over seeds holds zero. Figures without sampling error tie only when equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from lopsided.tasks import difference_standard_error, get_metric

Record = dict[str, Any]
Rows = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Run:
    """One finished run, as its directory tells it."""

    record: Record
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class Column:
    """One figure of a run.

    Args:
        key, title, unit: for the table.
        better: "low" or "high".
        value: the figure, from the record; None where the run has none.
        se: its standard error in one run; None for a figure without sampling error.
        difference_se: the standard error of the difference of two runs' figures.
    """

    key: str
    title: str
    unit: str
    better: str
    value: Callable[[Run], float | None]
    se: Callable[[Run], float | None] = lambda run: None
    difference_se: Callable[[Run, Run], float] = lambda a, b: 0.0

    def cell(self, runs: Sequence[Run]) -> dict[str, Any] | None:
        """Mean and standard error over a method's seeds."""
        values = [value for run in runs if (value := self.value(run)) is not None]
        if not values or len(values) < len(runs):
            return None
        if len(runs) == 1:
            return {"mean": values[0], "se": self.se(runs[0]), "mark": None}
        se = float(np.std(values, ddof=1) / math.sqrt(len(values)))
        return {"mean": float(np.mean(values)), "se": se, "mark": None}

    def tied(self, best: Sequence[Run], other: Sequence[Run]) -> bool:
        """Whether the data can't tell `other` from `best`; runs are paired by seed."""
        differences = [float(self.value(a)) - float(self.value(b)) for a, b in zip(best, other, strict=True)]  # type: ignore[arg-type]
        if len(differences) == 1:
            return abs(differences[0]) <= 2.0 * self.difference_se(best[0], other[0])
        spread = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
        return abs(float(np.mean(differences))) <= stats.t.ppf(0.975, len(differences) - 1) * spread


def _metric_se(split: str, a: Run, b: Run) -> float:
    metric = get_metric(a.record["task"]["metric"]["name"])
    return difference_standard_error(metric, a.rows[split], b.rows[split])


def _domains(run: Run) -> list[str]:
    return run.record["task"]["out_of_domain"]


def _mean_score(run: Run) -> float | None:
    scores = [run.record["metrics"][domain]["score"] for domain in _domains(run)]
    return float(np.mean(scores)) if scores else None


def _mean_score_se(run: Run) -> float | None:
    errors = [run.record["metrics"][domain]["se"] for domain in _domains(run)]
    return math.hypot(*errors) / len(errors) if errors else None


def _mean_score_difference_se(a: Run, b: Run) -> float:
    return math.hypot(*(_metric_se(domain, a, b) for domain in _domains(a))) / len(_domains(a))


def _independent(se: Callable[[Run], float | None]) -> Callable[[Run, Run], float]:
    return lambda a, b: math.hypot(se(a) or 0.0, se(b) or 0.0)


def _gap_se(run: Run) -> float:
    return run.record["generalization_error"]["se"]


def _step_se(run: Run) -> float | None:
    return run.record["timings"]["se_ms"]


UNITS = {"accuracy": "percent", "f1": "percent", "f1_macro": "percent", "perplexity": "perplexity"}


def columns(metric: dict[str, Any]) -> list[Column]:
    """The columns of a comparison whose task has this metric."""
    name, unit = metric["name"].replace("_", " "), UNITS.get(metric["name"], "score")
    better = "high" if metric["greater_is_better"] else "low"
    return [
        Column(
            key="trained_parameters",
            title="trained parameters",
            unit="count",
            better="low",
            value=lambda run: run.record["trained_parameters"],
        ),
        Column(
            key="score",
            title=f"test {name}",
            unit=unit,
            better=better,
            value=lambda run: run.record["metrics"]["test"]["score"],
            se=lambda run: run.record["metrics"]["test"]["se"],
            difference_se=lambda a, b: _metric_se("test", a, b),
        ),
        Column(
            key="ood_score",
            title=f"out-of-domain {name}",
            unit=unit,
            better=better,
            value=_mean_score,
            se=_mean_score_se,
            difference_se=_mean_score_difference_se,
        ),
        Column(
            key="generalization_error",
            title="G(W)",
            unit="loss",
            better="low",
            value=lambda run: run.record["generalization_error"]["value"],
            se=_gap_se,
            difference_se=_independent(_gap_se),
        ),
        Column(
            key="step_ms",
            title="ms a step",
            unit="ms",
            better="low",
            value=lambda run: run.record["timings"]["median_ms"],
            se=_step_se,
            difference_se=_independent(_step_se),
        ),
        Column(
            key="kept_bytes",
            title="kept for backward",
            unit="bytes",
            better="low",
            value=lambda run: run.record["kept_bytes"],
        ),
        Column(
            key="file_bytes",
            title="adapter file",
            unit="bytes",
            better="low",
            value=lambda run: run.record["adapter_bytes"],
        ),
    ]
