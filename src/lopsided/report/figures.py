"""All figures of a group, and the words for what is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lopsided.files.strict_json import reasons
from lopsided.formatting import joined
from lopsided.method import METHODS
from lopsided.plotting.colours import COLOURS, FLOOR_COLOUR, FLOOR_SYMBOL, SYMBOLS
from lopsided.plotting.figure import Figure
from lopsided.report.curves import intruders, losses, spectra
from lopsided.report.outcomes import bounds, forgetting, gaps
from lopsided.report.shapes import landscapes, similarity, timeline

# Named of the figures that a run lacks for one reason: a loss that diverged has many.
MOST_PLACES = 4

Builder = Callable[[dict[str, Any], list[dict[str, Any]]], Figure | None]
BUILDERS: tuple[Builder, ...] = (bounds, gaps, losses, timeline, landscapes, intruders, spectra, similarity, forgetting)


def figures(table: dict[str, Any], runs: list[dict[str, Any]]) -> list[Figure]:
    """The figures that the group's runs have data for, but for scores against costs."""
    found = [build(table, runs) for build in BUILDERS]
    return [figure for figure in found if figure is not None]


def missing(runs: list[dict[str, Any]]) -> list[str]:
    """One line for each thing that the group's page lacks, and how to get it."""
    lines = []
    bare = [run for run in runs if run["status"] == "finished" and run["diagnosis"] is None]
    if bare and len(bare) == len([run for run in runs if run["status"] == "finished"]):
        lines.append(
            "Landscapes, intruder dimensions, spectra, similarities and forgetting come from "
            f"`lopsided diagnose RUN`, such as `lopsided diagnose {bare[0]['folder']}`."
        )
    elif bare:
        lines.append(f"Not diagnosed: {joined([run['name'] for run in bare])}; run `lopsided diagnose RUN`.")
    lines += [f"{run['name']}: {run['diagnosis_note']}." for run in runs if run["diagnosis_note"]]
    for run in runs:
        for section, why in ((run["diagnosis"] or {}).get("skipped") or {}).items():
            lines.append(f"{run['name']} has no {section}: {why}")
        lines += _explained(run)
    reasons: dict[str, list[str]] = {}
    for run in runs:
        if run.get("bound_note"):
            reasons.setdefault(run["bound_note"].replace(run["folder"], "the run"), []).append(run["name"])
    lines += [f"No bound for {joined(names)}: {reason}." for reason, names in reasons.items()]
    return lines


def _explained(run: dict[str, Any]) -> list[str]:
    """One line for each reason why figures of a run are missing, with the places of the first few."""
    known = {key: run.get(key) for key in ("metrics", "generalization_error", "diagnosis")}
    places: dict[str, list[str]] = {}
    for place, reason in {**reasons(known), **run["nulls"]}.items():
        places.setdefault(reason, []).append(place)
    lines = []
    for reason, found in places.items():
        more = [f"{len(found) - MOST_PLACES} more"] if len(found) > MOST_PLACES else []
        lines.append(f"{run['name']}, – {joined([*found[:MOST_PLACES], *more])}: {reason}.")
    return lines


def looks(tables: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Colour and symbol of every label, the same everywhere in the page; the floor is grey."""
    floor = {run["label"] for run in runs if run["floor"]}
    ranked = [row["label"] for table in tables for row in table["rows"]]
    labels = list(dict.fromkeys([*ranked, *(run["label"] for run in runs)]))
    # In the order of the table of methods, so that reports about the same methods look alike.
    method = {run["label"]: run["method"] for run in runs}
    labels.sort(key=lambda label: list(METHODS).index(method[label]) if method[label] in METHODS else len(METHODS))
    named = [label for label in labels if label not in floor]
    found = {label: [COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]] for i, label in enumerate(named)}
    return found | {label: [FLOOR_COLOUR, FLOOR_SYMBOL] for label in labels if label in floor}
