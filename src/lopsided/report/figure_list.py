"""All figures of a group, the words for what is missing, and the colours of methods.

The page walks one list: the figures of plain runs, which are named here, and those of the sections of a diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lopsided.diagnose import SECTIONS
from lopsided.files.strict_json import reasons
from lopsided.method import METHODS
from lopsided.plotting.colours import COLOURS, FLOOR_COLOUR, FLOOR_SYMBOL, SYMBOLS
from lopsided.plotting.figure import DrawnRate, DrawnRun, Figure, FigureEntry, RunGroup
from lopsided.plotting.words import joined
from lopsided.report import bounds_next_to_gaps, loss_curves, pareto, rate_curves
from lopsided.report.reported_run import ReportedRun
from lopsided.study.by_task import TaskBoard
from lopsided.study.leaderboard import Leaderboard

OF_RUNS: tuple[FigureEntry[Leaderboard], ...] = (
    pareto.FIGURE,
    rate_curves.FIGURE,
    bounds_next_to_gaps.FIGURE,
    loss_curves.FIGURE,
)
# Named of the figures that a run lacks for one reason: a loss that diverged has many.
MOST_PLACES = 4


def entries() -> list[FigureEntry[Leaderboard]]:
    """Return everything that the page can draw of a group, from its top."""
    of_sections = [entry for section in SECTIONS.values() for entry in section.figures]
    return sorted([*OF_RUNS, *of_sections], key=lambda entry: entry.place)


def figures(board: TaskBoard, runs: Sequence[ReportedRun]) -> list[Figure]:
    """Return the figures that a board's runs have data for.

    Args:
        runs: in the order in which figures list them.
    """
    rates = {
        label: [DrawnRate(rate=trial.rate, score=trial.score) for trial in trials]
        for label, trials in board.rates.items()
    }
    group = RunGroup(key=board.key, leaderboard=board.leaderboard, runs=[_drawn(run) for run in runs], rates=rates)
    drawn = [entry.draw(group) for entry in entries()]
    return [figure for figure in drawn if figure is not None]


def _drawn(reported: ReportedRun) -> DrawnRun:
    """A run as figures read it; one that did not finish has no measurements."""
    run = reported.run
    shown = DrawnRun(
        label=reported.label,
        seed=run.seed,
        id=run.id,
        is_finished=run.is_finished,
        bound=None if reported.bound is None else reported.bound.value,
        diagnosis=run.diagnosis or {},
    )
    if not run.is_finished:
        return shown
    return replace(
        shown,
        train=run.losses("train"),
        validation=run.losses("validation"),
        boundaries=() if run.chain is None else run.chain.boundaries,
        steps=run.steps,
    )


def missing(runs: Sequence[ReportedRun]) -> list[str]:
    """Return one line for each thing that the group's page lacks, and how to get it."""
    finished = [reported.run for reported in runs if reported.run.is_finished]
    bare = [run for run in finished if run.diagnosis is None]
    lines = []
    if bare and len(bare) == len(finished):
        lines.append(
            "Landscapes, intruder dimensions, spectra, similarities and forgetting come from "
            f"`lopsided diagnose RUN`, such as `lopsided diagnose {bare[0].folder}`."
        )
    elif bare:
        lines.append(f"Not diagnosed: {joined([run.name for run in bare])}; run `lopsided diagnose RUN`.")
    lines += [f"{run.name}: {run.diagnosis_note}." for run in (reported.run for reported in runs) if run.diagnosis_note]
    for reported in runs:
        for section, why in ((reported.run.diagnosis or {}).get("skipped") or {}).items():
            lines.append(f"{reported.run.name} has no {section}: {why}")
        lines += _explained(reported)
    return lines + _without_bound(runs)


def _explained(reported: ReportedRun) -> list[str]:
    """One line for each reason why figures of a run are missing, with the places of the first few."""
    run = reported.run
    measured = run.reasons("metrics", "generalization_error") if run.is_finished else {}
    by_reason: dict[str, list[str]] = {}
    for place, reason in {**measured, **reasons({"diagnosis": run.diagnosis}), **reported.nulls}.items():
        by_reason.setdefault(reason, []).append(place)
    lines = []
    for reason, places in by_reason.items():
        more = [f"{len(places) - MOST_PLACES} more"] if len(places) > MOST_PLACES else []
        lines.append(f"{run.name}, – {joined([*places[:MOST_PLACES], *more])}: {reason}.")
    return lines


def _without_bound(runs: Sequence[ReportedRun]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for reported in runs:
        if reported.bound_note:
            reason = reported.bound_note.replace(str(reported.run.folder), "the run")
            by_reason.setdefault(reason, []).append(reported.run.name)
    return [f"No bound for {joined(names)}: {reason}." for reason, names in by_reason.items()]


def looks(boards: Sequence[TaskBoard], runs: Sequence[ReportedRun]) -> dict[str, list[str]]:
    """Return the colour and symbol of every label, the same everywhere in the page; the floor is grey."""
    method = {reported.label: reported.run.method for reported in runs}
    ranked = [row.label for board in boards for row in board.leaderboard.rows]
    labels = list(dict.fromkeys([*ranked, *method]))
    # In the order of the table of methods, so that reports about the same methods look alike.
    places = {name: place for place, name in enumerate(METHODS)}
    labels.sort(key=lambda label: places.get(method[label].name, len(places)))
    named = [label for label in labels if not method[label].side.head_alone]
    own = {label: [COLOURS[i % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]] for i, label in enumerate(named)}
    return own | {label: [FLOOR_COLOUR, FLOOR_SYMBOL] for label in labels if label not in own}
