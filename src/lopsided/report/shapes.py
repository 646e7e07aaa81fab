"""Figures of more than lines: loss landscapes, similarity of factors, the chain's timeline."""

from __future__ import annotations

from typing import Any

from lopsided.plotting.figure import Axis, Figure, by_label, diagnosed, mean, rounded
from lopsided.report import reading

# A landscape is compared by its colours; above this share of all losses they saturate, or one cliff hides the rest.
SATURATES = 0.95


def landscapes(table: dict[str, Any], runs: list[dict[str, Any]]) -> Figure | None:
    """The loss around where a run ended, of the first seed of each method."""
    members = by_label(diagnosed(runs, "landscape"))
    if not members:
        return None
    views = [_landscape(label, found[0]) for label, found in members.items()]
    losses = sorted(loss for one in views for row in one["loss"] for loss in row if loss is not None)
    if not losses:
        return None
    span = [losses[0], losses[int(SATURATES * (len(losses) - 1))]]
    for one in views:
        one["span"] = span
    sharp = {label: _sharpness(found) for label, found in members.items()}
    blunt = [label for label, value in sharp.items() if value is None]
    lost = sum(run["diagnosis"]["landscape"]["not_finite"] for found in members.values() for run in found[:1])
    section = next(iter(members.values()))[0]["diagnosis"]["landscape"]
    kinds = {found[0]["diagnosis"]["landscape"]["directions"] for found in members.values()}
    return Figure(
        key=f"{table['key']}-landscapes",
        kind="landscape",
        title="Loss landscapes",
        shows=reading.without(reading.landscapes_shows(section, kinds, lost), blunt, "a sharpness of every seed"),
        means=reading.landscapes_means({k: v for k, v in sharp.items() if v is not None}, section),
        choose="run",
        views=views,
    )


def _landscape(label: str, run: dict[str, Any]) -> dict[str, Any]:
    section = run["diagnosis"]["landscape"]
    path = section.get("path") or []
    return {
        "name": f"{label}, seed {run['seed']}",
        "label": label,
        "axis": rounded(section["axis"]),
        "loss": rounded(section["loss"]),
        "path": {key: rounded([point[key] for point in path]) for key in ("a", "b", "step")},
        "explained": rounded(section.get("explained")),
    }


def _sharpness(runs: list[dict[str, Any]]) -> float | None:
    """The mean over seeds; None if one of them lacks it."""
    sharp = [run["diagnosis"]["landscape"].get("sharpness") or {} for run in runs]
    return mean(one.get("largest") for one in sharp)


def similarity(table: dict[str, Any], runs: list[dict[str, Any]]) -> Figure | None:
    """How alike the factors of every two runs are."""
    members = diagnosed(runs, "similarity")
    views = []
    told: dict[str, tuple[float, float | None]] = {}
    for factor in ("B", "A"):
        values = [[_pair(a, b, factor) for b in members] for a in members]
        known = [value for row in values for value in row if value is not None]
        if not known:
            continue
        names = [f"{run['label']} {run['seed']}" for run in members]
        labels = [run["label"] for run in members]
        views.append({"name": f"factor {factor}", "names": names, "labels": labels, "values": rounded(values)})
        chances = [run["diagnosis"]["similarity"].get("chance", {}).get(factor) for run in members]
        told[factor] = (sum(known) / len(known), mean(chances))
    if not views:
        return None
    return Figure(
        key=f"{table['key']}-similarity",
        kind="matrix",
        title="Similarity of factors between runs",
        shows=reading.similarity_shows(_fewest(members)),
        means=reading.similarity_means(told),
        choose="factor",
        views=views,
    )


def _fewest(members: list[dict[str, Any]]) -> tuple[int, int] | None:
    """The fewest layers that a pair's similarity is the mean of, and how many the run has; None if all have all."""
    found = []
    for run in members:
        # Absent in files of version 0.1.0.
        layers = run["diagnosis"]["similarity"].get("layers")
        for factor in ("B", "A") if layers else ():
            found += [
                (count, layers["of"][factor]) for count in layers[factor].values() if 0 < count < layers["of"][factor]
            ]
    return min(found, default=None)


def _pair(a: dict[str, Any], b: dict[str, Any], factor: str) -> float | None:
    section = a["diagnosis"]["similarity"].get(factor) or {}
    return None if a is b else section.get(b["id"])


def timeline(table: dict[str, Any], runs: list[dict[str, Any]]) -> Figure | None:
    """When each link began and ended, and what the loss did in it; of the first seed of each method with a chain."""
    chained = by_label(run for run in runs if run.get("boundaries"))
    if not chained:
        return None
    rows: list[dict[str, Any]] = [{"label": label, "links": _links(found[0])} for label, found in chained.items()]
    return Figure(
        key=f"{table['key']}-timeline",
        kind="timeline",
        title="Timeline of the chains",
        shows=reading.timeline_shows(any(link["norm"] is not None for row in rows for link in row["links"])),
        means=reading.timeline_means({row["label"]: row["links"] for row in rows}),
        views=[{"name": "", "x": {"title": Axis(title="step").title}, "rows": rows}],
    )


def _links(run: dict[str, Any]) -> list[dict[str, Any]]:
    told = (run["diagnosis"] or {}).get("timeline")
    keys = ("loss_first", "loss_last", "learning_rate_first", "learning_rate_last", "norm", "rank", "columns_covered")
    if told:
        shown = ("link", "first_step", "last_step", *keys)
        return [{key: rounded(link.get(key)) for key in shown} for link in told["links"]]
    ends = [*run["boundaries"], run["steps"]]
    bare: dict[str, Any] = dict.fromkeys(keys)
    return [
        {"link": number, "first_step": first, "last_step": last, **bare}
        for number, (first, last) in enumerate(zip([0, *run["boundaries"]], ends))
    ]
