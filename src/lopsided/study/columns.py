"""The columns of a comparison, and when two methods can't be told apart.

Each column reads one figure from a run's record. Two methods are *tied* in a column if the data can't tell
them apart: with one seed, if their difference is within two standard errors of that difference; with several
seeds, if a paired 95 % t-interval over seeds holds zero. Figures without sampling error tie only when equal. A figure
that could not be computed does not compete, and its cell says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lopsided.files.strict_json import WHY
from lopsided.finite import finite_or_none, is_finite
from lopsided.stats import standard_error, student_quantile
from lopsided.tasks import difference_standard_error, get_metric

Record = dict[str, Any]
Rows = dict[str, Mapping[str, np.ndarray]]


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
        why: the reason why a run has no figure or no standard error, by "value" or "se"; empty where the column does
            not concern the run.
        se: its standard error in one run; None for a figure without sampling error.
        difference_se: the standard error of the difference of two runs' figures; None if it can't be computed.
    """

    key: str
    title: str
    unit: str
    better: str
    value: Callable[[Run], float | None]
    why: Callable[[Run], Mapping[str, str]] = lambda run: {}
    se: Callable[[Run], float | None] = lambda run: None
    difference_se: Callable[[Run, Run], float | None] = lambda a, b: 0.0

    def cell(self, runs: Sequence[Run]) -> dict[str, Any] | None:
        """Mean and standard error over a method's seeds; None where the column does not concern these runs.

        A figure that can't be computed is None in the cell, and the cell's `why` says the reason. A seed without a
        figure leaves the method without a mean: that of the others would flatter.
        """
        values = [finite_or_none(self.value(run)) for run in runs]
        known = [value for value in values if value is not None]
        if not runs or (not known and not any(self._reason(run, "value") for run in runs)):
            return None
        if len(known) < len(runs):
            why = self._without_mean(runs, values)
            return {"mean": None, "se": None, "mark": None, WHY: {"mean": why}}
        if len(runs) == 1:
            se, why = finite_or_none(self.se(runs[0])), self._reason(runs[0], "se")
            return {"mean": known[0], "se": se, "mark": None} | ({WHY: {"se": why}} if se is None and why else {})
        return {"mean": float(np.mean(known)), "se": standard_error(np.array(known)), "mark": None}

    def tied(self, best: Sequence[Run], other: Sequence[Run]) -> bool:
        """Whether the data can't tell `other` from `best`; runs are paired by seed.

        Without a standard error of their difference, they can't.
        """
        differences = [float(self.value(a)) - float(self.value(b)) for a, b in zip(best, other, strict=True)]  # type: ignore[arg-type]
        if len(differences) == 1:
            se = finite_or_none(self.difference_se(best[0], other[0]))
            return se is None or abs(differences[0]) <= 2.0 * se
        spread = standard_error(np.array(differences))
        return bool(abs(float(np.mean(differences))) <= student_quantile(len(differences) - 1) * spread)

    def _reason(self, run: Run, what: str) -> str:
        """Why a run lacks the figure or its error; records of earlier versions do not say."""
        found = {"value": self.value, "se": self.se}[what](run)
        if found is not None and not math.isfinite(found):
            return self.why(run).get(what, f"it is {found}")
        return self.why(run).get(what, "") if found is None else ""

    def _without_mean(self, runs: Sequence[Run], values: Sequence[float | None]) -> str:
        lacking = [run for run, value in zip(runs, values) if value is None]
        reason = self._reason(lacking[0], "value") or "not in its record"
        return reason if len(runs) == 1 else f"{len(lacking)} of {len(runs)} seeds have no figure: {reason}"


# What a record's own `why` may not say, since version 0.1.0 wrote none.
UNTOLD = "its record holds no finite figure, and no reason"


def _reasons(section: Mapping[str, Any] | None, value: str, se: str) -> dict[str, str]:
    """The reasons in a section of a record, for a column that reads these two fields of it."""
    if section is None:
        return {}
    given = section.get(WHY, {})
    return {
        ours: given.get(theirs, UNTOLD) for ours, theirs in (("value", value), ("se", se)) if section[theirs] is None
    }


def _metric_se(split: str, a: Run, b: Run) -> float:
    metric = get_metric(a.record["task"]["metric"]["name"])
    return difference_standard_error(metric, a.rows[split], b.rows[split])


def _domains(run: Run) -> list[str]:
    return run.record["task"]["out_of_domain"]


def _over_domains(run: Run, key: str) -> list[float] | None:
    """A figure of every domain; None if one lacks it, or there is none."""
    found = [run.record["metrics"][domain][key] for domain in _domains(run)]
    return None if not found or not all(map(is_finite, found)) else found


def _mean_score(run: Run) -> float | None:
    scores = _over_domains(run, "score")
    return None if scores is None else float(np.mean(scores))


def _mean_score_se(run: Run) -> float | None:
    errors = _over_domains(run, "se")
    return None if errors is None else math.hypot(*errors) / len(errors)


def _mean_score_why(run: Run) -> dict[str, str]:
    """The reasons of the domains that lack a figure: the mean of the others would be that of another task."""
    told: dict[str, str] = {}
    for ours, theirs in (("value", "score"), ("se", "se")):
        figures = {domain: run.record["metrics"][domain] for domain in _domains(run)}
        lacking = [domain for domain, found in figures.items() if finite_or_none(found[theirs]) is None]
        if lacking:
            reason = figures[lacking[0]].get(WHY, {}).get(theirs, UNTOLD)
            told[ours] = f"{len(lacking)} of {len(figures)} domains have none ({lacking[0]}: {reason})"
    return told


def _mean_score_difference_se(a: Run, b: Run) -> float:
    return math.hypot(*(_metric_se(domain, a, b) for domain in _domains(a))) / len(_domains(a))


def _independent(se: Callable[[Run], float | None]) -> Callable[[Run, Run], float | None]:
    def both(a: Run, b: Run) -> float | None:
        errors = se(a), se(b)
        return None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])

    return both


def _gap_se(run: Run) -> float | None:
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
            why=lambda run: _reasons(run.record["metrics"]["test"], "score", "se"),
            difference_se=lambda a, b: _metric_se("test", a, b),
        ),
        Column(
            key="ood_score",
            title=f"out-of-domain {name}",
            unit=unit,
            better=better,
            value=_mean_score,
            se=_mean_score_se,
            why=_mean_score_why,
            difference_se=_mean_score_difference_se,
        ),
        Column(
            key="generalization_error",
            title="G(W)",
            unit="loss",
            better="low",
            value=lambda run: run.record["generalization_error"]["value"],
            se=_gap_se,
            why=lambda run: _reasons(run.record["generalization_error"], "value", "se"),
            difference_se=_independent(_gap_se),
        ),
        Column(
            key="step_ms",
            title="ms a step",
            unit="ms",
            better="low",
            value=lambda run: run.record["timings"]["median_ms"],
            se=_step_se,
            why=lambda run: _reasons(run.record["timings"], "median_ms", "se_ms"),
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
