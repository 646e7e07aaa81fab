"""The columns of a leaderboard as a table of data, `COLUMNS`: one entry per figure of a run.

To add a column, add an entry to `COLUMNS`: results.json, the terminal and the page show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lopsided.finite import is_finite
from lopsided.runs import Estimate, Run
from lopsided.tasks import difference_standard_error, get_metric
from lopsided.tasks.score_functions import SCORES

# The reason where a record gives none, as those of version 0.1.0.
UNTOLD = "its record holds no finite figure, and no reason"
# In an entry, the unit or direction of the task's metric.
OF_METRIC: Literal["of the metric"] = "of the metric"


def exact(first: Run, second: Run) -> float | None:
    """Return the standard error of a difference of figures without sampling error: methods tie only when equal."""
    return 0.0


@dataclass(frozen=True, kw_only=True)
class Column:
    """One figure of a run, and how it is shown.

    Args:
        key: its name in results.json.
        title: in words; "{metric}" stands for the name of the task's metric.
        unit: a key of `lopsided.formatting.UNITS`, or `OF_METRIC`.
        better: the direction, or `OF_METRIC`.
        figure: a run's figure, its standard error (None for a figure without sampling error), and the reason where
            one of the two is missing. None where the column does not concern the run.
        difference_se: the standard error of the difference of two runs' figures; None if it cannot be computed.
        heading: a title short enough for the terminal; empty takes `title`.
        note: for the page, what the title cannot say.
        logarithmic: whether methods differ in it by factors, so that an axis of it is logarithmic.
    """

    key: str
    title: str
    unit: str
    better: Literal["low", "high", "of the metric"]
    figure: Callable[[Run], Estimate | None]
    difference_se: Callable[[Run, Run], float | None] = exact
    heading: str = ""
    note: str = ""
    logarithmic: bool = False

    @property
    def sign(self) -> float:
        """The factor that makes lower better."""
        return -1.0 if self.better == "high" else 1.0

    def to_json(self) -> dict[str, str]:
        """Return what tables say of the column."""
        return {"key": self.key, "title": self.title, "unit": self.unit, "better": self.better}


def columns_of(metric: str, greater_is_better: bool) -> tuple[Column, ...]:
    """Return the columns for a task with this metric: titles, units and directions are filled in."""
    # A run may have been made where more metrics are registered.
    unit = SCORES[metric].unit if metric in SCORES else "score"
    return tuple(
        replace(
            column,
            title=column.title.format(metric=metric.replace("_", " ")),
            unit=unit if column.unit == OF_METRIC else column.unit,
            better=("high" if greater_is_better else "low") if column.better == OF_METRIC else column.better,
        )
        for column in COLUMNS.values()
    )


def count(value: float) -> Estimate:
    """Return a figure without sampling error."""
    return Estimate(value=value, se=None)


def explained(estimate: Estimate | None) -> Estimate | None:
    """Return a measured figure with a reason for each part that is missing."""
    if estimate is None:
        return None
    lacking = [name for name, part in (("value", estimate.value), ("se", estimate.se)) if part is None]
    return replace(estimate, why={name: estimate.why.get(name, UNTOLD) for name in lacking})


def independent(figure: Callable[[Run], Estimate | None]) -> Callable[[Run, Run], float | None]:
    """Return the standard error of a difference of two independent figures: √(se₁² + se₂²)."""

    def difference_se(first: Run, second: Run) -> float | None:
        """Return √(se₁² + se₂²); None if one of the two is missing."""
        estimates = figure(first), figure(second)
        errors = [estimate.se for estimate in estimates if estimate is not None and estimate.se is not None]
        return math.hypot(*errors) if len(errors) == 2 else None

    return difference_se


def _test_score(run: Run) -> Estimate | None:
    return explained(run.metrics["test"].score) if "test" in run.metrics else None


def _gap(run: Run) -> Estimate | None:
    return explained(run.generalization_error)


def _step_ms(run: Run) -> Estimate | None:
    return explained(run.step_ms)


def _paired_se(split: str, first: Run, second: Run) -> float:
    """The standard error of the difference of two scores on the same rows of a split."""
    rows = (run.predictions[split] for run in (first, second))
    return difference_standard_error(get_metric(first.task.metric), *rows)


def _mean_over_domains(run: Run) -> Estimate | None:
    """The mean score over the domains that the run was not trained on.

    Without one of them there is no mean: that of the others would be of another task.
    """
    domains = run.task.out_of_domain
    if not domains or any(domain not in run.metrics for domain in domains):
        return None
    scores = {domain: run.metrics[domain].score for domain in domains}
    values, errors = [score.value for score in scores.values()], [score.se for score in scores.values()]
    why = {}
    for name, parts in (("value", values), ("se", errors)):
        if lacking := [domain for domain, part in zip(scores, parts) if not is_finite(part)]:
            reason = scores[lacking[0]].why.get(name, UNTOLD)
            why[name] = f"{len(lacking)} of {len(scores)} domains have none ({lacking[0]}: {reason})"
    return Estimate(
        value=None if "value" in why else float(np.mean(_known(values))),
        se=None if "se" in why else math.hypot(*_known(errors)) / len(scores),
        why=why,
    )


def _mean_over_domains_se(first: Run, second: Run) -> float:
    domains = first.task.out_of_domain
    return math.hypot(*(_paired_se(domain, first, second) for domain in domains)) / len(domains)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


SCORE = "score"
_ENTRIES = (
    Column(
        key="trained_parameters",
        title="trained parameters",
        heading="trained",
        unit="count",
        better="low",
        figure=lambda run: count(run.trained_parameters),
        logarithmic=True,
    ),
    Column(
        key=SCORE,
        title="test {metric}",
        heading="test",
        unit=OF_METRIC,
        better=OF_METRIC,
        figure=_test_score,
        difference_se=lambda first, second: _paired_se("test", first, second),
    ),
    Column(
        key="ood_score",
        title="out-of-domain {metric}",
        heading="OOD",
        unit=OF_METRIC,
        better=OF_METRIC,
        figure=_mean_over_domains,
        difference_se=_mean_over_domains_se,
    ),
    Column(
        key="generalization_error",
        title="G(W)",
        unit="loss",
        better="low",
        figure=_gap,
        difference_se=independent(_gap),
        note="G(W) is |test loss − train loss|, taken at the checkpoint that was best on the validation split.",
    ),
    Column(
        key="step_ms",
        title="ms a step",
        heading="ms/step",
        unit="ms",
        better="low",
        figure=_step_ms,
        difference_se=independent(_step_ms),
    ),
    Column(
        key="kept_bytes",
        title="kept for backward",
        heading="kept",
        unit="bytes",
        better="low",
        figure=lambda run: count(run.kept_bytes),
        note="Kept for backward: the bytes that autograd saves in one training step, parameters left out.",
        logarithmic=True,
    ),
    Column(
        key="file_bytes",
        title="adapter file",
        heading="file",
        unit="bytes",
        better="low",
        figure=lambda run: count(run.adapter_bytes),
        logarithmic=True,
    ),
)
COLUMNS: dict[str, Column] = {column.key: column for column in _ENTRIES}
