"""All figures of a group, the words for what is missing, and the colours of methods.

The page walks one list: the figures of plain runs, which are named here, and those of the sections of a diagnosis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lopsided.diagnose import SECTIONS
from lopsided.files.strict_json import reasons
from lopsided.formatting import joined
from lopsided.method import METHODS
from lopsided.plotting.colours import COLOURS, FLOOR_COLOUR, FLOOR_SYMBOL, SYMBOLS
from lopsided.plotting.figure import DrawnRun, Figure, FigureEntry, RunGroup
from lopsided.report import bounds_next_to_gaps, loss_curves, scores_against_costs

OF_RUNS = (scores_against_costs.FIGURE, bounds_next_to_gaps.FIGURE, loss_curves.FIGURE)
# Named of the figures that a run lacks for one reason: a loss that diverged has many.
MOST_PLACES = 4


def entries() -> list[FigureEntry]:
    """Return everything that the page can draw of a group, from its top."""
    of_sections = [entry for section in SECTIONS.values() for entry in section.figures]
    return sorted([*OF_RUNS, *of_sections], key=lambda entry: entry.place)


def figures(table: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Return the figures that the group's runs have data for."""
    group = RunGroup(key=table["key"], leaderboard=table, runs=[_drawn(run) for run in runs])
    drawn = [entry.draw(group) for entry in entries()]
    return [figure for figure in drawn if figure is not None]


def _drawn(run: Mapping[str, Any]) -> DrawnRun:
    """A run as figures read it, from what `gather` says of it; one that did not finish has no measurements."""
    return DrawnRun(
        label=run["label"],
        seed=run["seed"],
        id=run["id"],
        is_finished=run["status"] == "finished",
        train=run.get("train") or (),
        validation=run.get("validation") or (),
        boundaries=run.get("boundaries") or (),
        steps=run.get("steps"),
        bound=run.get("bound"),
        diagnosis=run["diagnosis"] or {},
    )


def missing(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each thing that the group's page lacks, and how to get it."""
    lines = []
    finished = [run for run in runs if run["status"] == "finished"]
    bare = [run for run in finished if run["diagnosis"] is None]
    if bare and len(bare) == len(finished):
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
    without_bound: dict[str, list[str]] = {}
    for run in runs:
        if run.get("bound_note"):
            without_bound.setdefault(run["bound_note"].replace(run["folder"], "the run"), []).append(run["name"])
    lines += [f"No bound for {joined(names)}: {reason}." for reason, names in without_bound.items()]
    return lines


def _explained(run: Mapping[str, Any]) -> list[str]:
    """One line for each reason why figures of a run are missing, with the places of the first few."""
    known = {key: run.get(key) for key in ("metrics", "generalization_error", "diagnosis")}
    by_reason: dict[str, list[str]] = {}
    for place, reason in {**reasons(known), **run["nulls"]}.items():
        by_reason.setdefault(reason, []).append(place)
    lines = []
    for reason, places in by_reason.items():
        more = [f"{len(places) - MOST_PLACES} more"] if len(places) > MOST_PLACES else []
        lines.append(f"{run['name']}, – {joined([*places[:MOST_PLACES], *more])}: {reason}.")
    return lines


def looks(tables: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the colour and symbol of every label, the same everywhere in the page; the floor is grey."""
    floor = {run["label"] for run in runs if run["floor"]}
    ranked = [row["label"] for table in tables for row in table["rows"]]
    labels = list(dict.fromkeys([*ranked, *(run["label"] for run in runs)]))
    # In the order of the table of methods, so that reports about the same methods look alike.
    method = {run["label"]: run["method"] for run in runs}
    labels.sort(key=lambda label: list(METHODS).index(method[label]) if method[label] in METHODS else len(METHODS))
    named = [label for label in labels if label not in floor]
    own = {label: [COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]] for i, label in enumerate(named)}
    return own | {label: [FLOOR_COLOUR, FLOOR_SYMBOL] for label in labels if label in floor}
