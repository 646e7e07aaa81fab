"""Figures of what runs end with: bounds beside gaps, gaps by split, forgetting."""

from __future__ import annotations

from typing import Any

from lopsided.plotting.figure import Axis, Figure, by_label, diagnosed, mean, rounded, series, view
from lopsided.report import reading


def bounds(table: dict[str, Any], runs: list[dict[str, Any]]) -> Figure | None:
    """Each method's measured gap, and the bound of it."""
    members = by_label(run for run in runs if run.get("bound"))
    gap = {row["label"]: row["cells"].get("generalization_error", {}) for row in table["rows"]}
    # On a logarithmic axis a gap of 0 has no place.
    means = {label: mean(run["bound"]["value"] for run in found) for label, found in members.items()}
    bound = {label: value for label, value in means.items() if value is not None and gap.get(label, {}).get("mean")}
    labels = sorted(bound, key=lambda label: bound[label])
    if not labels:
        return None
    lacking = [label for label in by_label(r for r in runs if r["status"] == "finished") if label not in bound]
    measured = [_interval(label, gap[label]["mean"], gap[label]["half"]) for label in labels]
    above = [series(label, [bound[label]], [label], name=f"{label}, bound", hollow=True) for label in labels]
    values = {label: gap[label]["mean"] for label in labels}
    return Figure(
        key=f"{table['key']}-bounds",
        kind="intervals",
        title="Bound beside measured gap",
        shows=reading.without(reading.bounds_shows(), lacking, "a gap and a bound"),
        means=reading.bounds_means(values, bound),
        views=[view("", Axis(title="nats a prediction", log=True), Axis(title="method"), measured + above)],
    )


def _interval(label: str, value: float, half: float | None) -> dict[str, Any]:
    ends = {} if half is None else {"low": rounded([value - half]), "high": rounded([value + half])}
    return series(label, [value], [label], name=f"{label}, measured", **ends)


def gaps(table: dict[str, Any], runs: list[dict[str, Any]]) -> Figure | None:
    """Each split's loss less the training loss."""
    members = by_label(diagnosed(runs, "generalization"))
    firsts = [found[0]["diagnosis"]["generalization"]["gaps"] for found in members.values()]
    splits = list(dict.fromkeys(split for first in firsts for split in first))
    if not splits:
        return None
    values: dict[str, dict[str, float]] = {}
    views = []
    lacking: dict[str, None] = {}
    for split in splits:
        rows = []
        for label, found in members.items():
            parts = [run["diagnosis"]["generalization"]["gaps"].get(split) for run in found]
            row = None if None in parts else _mean_interval(label, parts)
            if row is None:
                lacking[label] = None
            else:
                values.setdefault(split, {})[label] = row["x"][0]
                rows.append(row)
        views.append(view(split, Axis(title=f"loss on {split} less loss on train"), Axis(title="method"), rows))
    views.sort(key=lambda one: one["name"] != "test")
    return Figure(
        key=f"{table['key']}-gaps",
        kind="intervals",
        title="Generalization gaps",
        shows=reading.without(reading.gaps_shows(), list(lacking), "a gap on every split"),
        means=reading.gaps_means(values),
        choose="split",
        views=views,
    )


def forgetting(table: dict[str, Any], runs: list[dict[str, Any]]) -> Figure | None:
    """How much worse, or better, each method's model became at something else."""
    found = diagnosed(runs, "forgetting")
    sections = [run["diagnosis"]["forgetting"] for run in found]
    kinds = list(dict.fromkeys((section["reference"], section["metric"]) for section in sections))
    if not kinds:
        return None
    views = []
    lacking: dict[str, None] = {}
    worse: dict[str, float] = {}
    for reference, metric in kinds:
        rows = []
        for label, group in by_label(found).items():
            parts = [r["diagnosis"]["forgetting"] for r in group]
            parts = [part for part in parts if (part["reference"], part["metric"]) == (reference, metric)]
            row = _mean_interval(label, [{**part, "value": part["change"]} for part in parts]) if parts else None
            if parts and row is None:
                lacking[label] = None
            if row is not None:
                rows.append(row)
                sign = 1.0 if parts[0]["better"] == "low" else -1.0
                if (reference, metric) == kinds[0]:
                    worse[label] = sign * row["x"][0]
        name = f"{metric} on {reference}"
        views.append(view(name, Axis(title=f"change of {name}"), Axis(title="method"), rows))
    first = sections[0]
    return Figure(
        key=f"{table['key']}-forgetting",
        kind="intervals",
        title="Forgetting",
        shows=reading.without(reading.forgetting_shows(first), list(lacking), "a change that is finite"),
        means=reading.forgetting_means(worse, first),
        choose="reference",
        views=views,
    )


def _mean_interval(label: str, parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The mean over seeds, with the mean of the runs' own intervals where all of them have one."""
    value, low, high = (mean(part[key] for part in parts) for key in ("value", "low", "high"))
    if value is None:
        return None
    if low is None or high is None:
        return series(label, [value], [label], name=f"{label} (no interval)")
    return series(label, [value], [label], low=rounded([low]), high=rounded([high]))
