"""Figures of lines: losses over steps, intruders over ε, spectra."""

from __future__ import annotations

from typing import Any

from lopsided.plotting.figure import Axis, Figure, by_label, diagnosed, mean_curve, mean_of_known, part_of, series, view
from lopsided.report import reading

STEP = Axis(title="step")


def losses(table: dict[str, Any], runs: list[dict[str, Any]]) -> Figure | None:
    """Training and validation loss of all methods, and of each method's seeds with its links marked."""
    members = by_label(run for run in runs if run.get("validation") or run.get("train"))
    if not members:
        return None
    loss = Axis(title="loss")
    views = []
    for split in ("validation", "train"):
        rows = [row for label, found in members.items() if (row := _mean_loss(label, found, split))]
        if rows:
            views.append(view(f"all methods, {split}", STEP, loss, rows))
    best: dict[str, tuple[float, int, bool]] = {}
    for label, found in members.items():
        rows = []
        for run in found:
            for split in ("train", "validation"):
                x, y = _columns(run[split])
                name = f"{split}, seed {run['seed']}"
                rows.append(series(label, x, y, name=name, dash=split == "train", marks=run["boundaries"]))
        views.append(view(f"{label}, every seed (dotted: train)", STEP, loss, rows))
        if lowest := _lowest(found):
            best[label] = lowest
    return Figure(
        key=f"{table['key']}-losses",
        kind="lines",
        title="Loss curves",
        shows=reading.losses_shows(any(run["boundaries"] for found in members.values() for run in found)),
        means=reading.losses_means(best),
        choose="curves",
        views=views,
    )


def _columns(points: list[list[Any]]) -> tuple[list[Any], list[Any]]:
    return [x for x, _ in points], [y for _, y in points]


def _mean_loss(label: str, runs: list[dict[str, Any]], split: str) -> dict[str, Any] | None:
    """The mean over seeds; the name says of how many, where some were evaluated at other steps than the first."""
    curves = [_columns(run[split]) for run in runs if run[split]]
    if not curves:
        return None
    steps = curves[0][0]
    alike = [y for x, y in curves if x == steps]
    name = label + part_of(len(alike), len(runs), "seeds")
    return series(label, steps, mean_curve(alike), name=name, marks=runs[0]["boundaries"])


def _lowest(runs: list[dict[str, Any]]) -> tuple[float, int, bool] | None:
    """The lowest mean validation loss, its step, and whether that was the last one."""
    curve = _mean_loss("", runs, "validation")
    points = [] if curve is None else [(y, x) for x, y in zip(curve["x"], curve["y"]) if y is not None]
    if not points:
        return None
    loss, step = min(points)
    return loss, step, step == points[-1][1]


def intruders(table: dict[str, Any], runs: list[dict[str, Any]]) -> Figure | None:
    """How many new directions each update brought, over the threshold ε."""
    found = diagnosed(runs, "intruders")
    views = []
    counts: dict[str, float] = {}
    for part, words in (("all", "all directions"), ("top_k", "the top directions")):
        having = by_label(run for run in found if run["diagnosis"]["intruders"].get(part))
        if not having:
            continue
        kinds = list(next(iter(having.values()))[0]["diagnosis"]["intruders"][part].get("by_kind", {}))
        for kind in [None, *kinds]:
            rows = [_intruder_row(label, group, part, kind) for label, group in having.items()]
            name = f"{words}, mean over layers" if kind is None else f"{words}, {kind}"
            axis = Axis(title="intruder dimensions a layer")
            views.append(view(name, Axis(title="ε, the cosine that counts as new"), axis, rows))
            if kind is None and not counts:
                counts = {row["label"]: middle for row in rows if (middle := _middle(row)) is not None}
    if not views:
        return None
    return Figure(
        key=f"{table['key']}-intruders",
        kind="lines",
        title="Intruder dimensions",
        shows=reading.intruders_shows(found[0]["diagnosis"]["intruders"]["top"]),
        means=reading.intruders_means(counts),
        choose="layers",
        views=views,
    )


def _intruder_row(label: str, runs: list[dict[str, Any]], part: str, kind: str | None) -> dict[str, Any]:
    sections = [run["diagnosis"]["intruders"] for run in runs]
    curves = [s[part]["mean"] if kind is None else s[part]["by_kind"].get(kind, []) for s in sections]
    known = [curve for curve in curves if curve]
    # Absent in files of version 0.1.0, which counted all layers or none.
    layers = [s["layers"] for s in sections if "layers" in s]
    counted, of = (sum(found[key] for found in layers) for key in ("counted", "of"))
    name = label + part_of(len(known), len(runs), "seeds") + part_of(counted, of, "layers")
    return series(label, sections[0]["epsilons"], mean_curve(known), name=name)


def _middle(row: dict[str, Any]) -> float | None:
    """The count at the ε nearest 0.5."""
    points = [(abs(x - 0.5), y) for x, y in zip(row["x"], row["y"]) if y is not None]
    return float(min(points)[1]) if points else None


def spectra(table: dict[str, Any], runs: list[dict[str, Any]]) -> Figure | None:
    """The singular values of the updates, over the largest one, by kind of layer."""
    members = by_label(diagnosed(runs, "layers"))
    if not members:
        return None
    firsts = [found[0]["diagnosis"]["layers"] for found in members.values()]
    kinds = list(dict.fromkeys(layer["kind"] for layers in firsts for layer in layers))
    views = []
    for kind in [None, *kinds]:
        rows = []
        for label, found in members.items():
            layers = _of_kind(found, kind)
            # An update that is zero, or not finite, has no singular values.
            curves = [curve for layer in layers if (curve := _relative(layer["delta"]["singular_values"]))]
            curve = mean_curve(curves)
            if curve:
                name = label + part_of(len(curves), len(layers), "layers")
                rows.append(series(label, list(range(1, len(curve) + 1)), curve, name=name))
        x, y = Axis(title="number of the singular value"), Axis(title="singular value of ΔW, over the largest")
        views.append(view(kind or "all layers", x, y, rows))
    ranks = {}
    for label, found in members.items():
        value, counted, of = mean_of_known(layer["delta"]["effective_rank"] for layer in _of_kind(found, None))
        if value is not None:
            ranks[label + part_of(counted, of, "layers")] = value
    return Figure(
        key=f"{table['key']}-spectra",
        kind="lines",
        title="Spectra of the updates",
        shows=reading.spectra_shows(),
        means=reading.spectra_means(ranks),
        choose="layers",
        views=views,
    )


def _of_kind(runs: list[dict[str, Any]], kind: str | None) -> list[dict[str, Any]]:
    return [layer for run in runs for layer in run["diagnosis"]["layers"] if kind in (None, layer["kind"])]


def _relative(values: list[float | None]) -> list[float | None]:
    largest = values[0] if values else None
    return [None if value is None or not largest else value / largest for value in values]
