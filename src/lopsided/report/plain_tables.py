"""Plain tables of the page: the lab's verdicts, advice, and which runs these are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lopsided.finite import is_finite
from lopsided.formatting import MISSING, duration, number_text
from lopsided.lab.recorded_figure import count_states
from lopsided.method import side_named
from lopsided.plotting.words import joined
from lopsided.report.reported_run import ReportedRun
from lopsided.study.by_task import TaskBoard, status_in_words
from lopsided.study.outputs import PUBLISHED_HEAD, published_rows

# A hash is quoted by its beginning, as elsewhere.
HASH = 12
NO_ADVICE = "There is no estimate for any layer."


@dataclass(frozen=True, kw_only=True)
class PlainTable:
    """A table of texts.

    Args:
        shows, means: one sentence each: what it holds, and what follows.
        commands: what each command makes, and the command; None where it is not known.
    """

    key: str
    title: str
    shows: str
    means: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    commands: tuple[tuple[str, str | None], ...] = ()


def lab_table(results: Sequence[dict[str, Any]]) -> list[PlainTable]:
    """Return one row per experiment; no table where there is none."""
    if not results:
        return []
    by_verdict: dict[str, list[str]] = {}
    for result in results:
        by_verdict.setdefault(result["verdict"], []).append(result["name"])
    failed = [result["name"] for result in results if result["verdict"] in ("partly", "not reproduced")]
    parts = [f"Don't base a choice on the claims behind {joined(failed)}."] if failed else []
    if undecided := by_verdict.get("undecided"):
        parts.append(f"Undecided, which more seeds may change: {joined(undecided)}.")
    reproduced = len(by_verdict.get("reproduced", ()))
    rows = [
        (
            result["name"],
            result["claim"],
            result["verdict"],
            count_states(figure["state"] for figure in result["figures"]),
            result["size"],
            result["source"],
        )
        for result in results
    ]
    return [
        PlainTable(
            key="lab",
            title="The papers' claims, put to the test",
            shows=f"{reproduced} of {len(results)} claims were reproduced within ranges that were stated beforehand.",
            means=" ".join(parts) or "A choice of method may rest on these claims.",
            caption="What `lopsided lab` measured",
            head=("experiment", "claim", "verdict", "ranges", "size", "source"),
            rows=tuple(rows),
        )
    ]


def advice_tables(advices: Sequence[dict[str, Any]]) -> list[PlainTable]:
    """Return one table per model and task that `lopsided advise` looked at."""
    return [_advice(number, advice) for number, advice in enumerate(advices)]


def _advice(number: int, advice: dict[str, Any]) -> PlainTable:
    settings, best = advice["settings"], advice["best"]
    # An estimate that is missing is no estimate of 0: it comes last, and is no layer to begin with.
    rows = sorted(
        (row for row in advice["rows"] if best.get(row["module"]) == row["method"]),
        key=lambda row: -row["reduction"] if is_finite(row["reduction"]) else math.inf,
    )
    estimated = [row["module"] for row in rows if is_finite(row["reduction"])]
    return PlainTable(
        key=f"advice-{number}",
        title=f"Advice for {settings['task']} with {settings['model']}",
        shows=(
            "The estimated reduction of the loss in each layer alone by one factor, at equal trained numbers, from "
            f"{advice['predictions']} predictions, before any run."
        ),
        means=f"Where only some layers can be adapted, begin with {estimated[0]}." if estimated else NO_ADVICE,
        caption=f"The best single side of each layer; {advice['unit']}. Read the order of layers, not that of methods",
        head=("layer", "method", "trains", "rank", "trained numbers", "expected reduction", "on the rows seen"),
        rows=tuple(_advice_row(row) for row in rows),
    )


def _advice_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["module"],
        row["method"],
        side_named(row["side"]).title,
        str(row["rank"]),
        f"{row['trained']:,}",
        number_text(row["reduction"]),
        number_text(row["fitted"]),
    )


def published_table(boards: Sequence[TaskBoard]) -> list[PlainTable]:
    """Return the papers' figures next to ours, for the rows that have one; no table where there is none."""
    rows = [
        (board.model, board.task, *row)
        for board in boards
        for row in published_rows(board.leaderboard, board.model, board.task)
    ]
    if not rows:
        return []
    return [
        PlainTable(
            key="published",
            title="Next to the papers' figures",
            shows="What papers print of the same model, task, method and rank, next to the runs here.",
            means="A difference means little while the last column holds something that moves figures.",
            caption="Published figures, without intervals where the papers print none; ours with 95 % intervals",
            head=("model", "task", *PUBLISHED_HEAD),
            rows=tuple(rows),
        )
    ]


def run_table(runs: Sequence[ReportedRun]) -> PlainTable:
    """Return which runs these are: hashes, seeds, versions, and the commands that made them."""
    commands: dict[tuple[str | None, str | None], list[str]] = {}
    versions: dict[str, list[str]] = {}
    for reported in runs:
        run = reported.run
        commands.setdefault((reported.command, reported.command_note), []).append(run.name)
        packages = ", ".join(f"{name} {number}" for name, number in run.versions.items())
        where = f"{run.machine['processor']}, {run.machine['cores']} cores"
        versions.setdefault(f"{packages}; {where}", []).append(run.name)
    return PlainTable(
        key="runs",
        title="Which runs these are",
        shows="Two reports with equal hashes were made from the same runs.",
        means=" ".join(f"{_named(names, runs)} with {text}." for text, names in versions.items()),
        caption="Run directories; hashes by their first twelve characters",
        head=("run", "method", "seed", "status", "took", "sha256 of run.json", "hash of the adapter"),
        rows=tuple(_run_row(reported) for reported in runs),
        commands=tuple(
            (f"{_named(names, runs)} again by" if note is None else f"{_named(names, runs)}: {note}", command)
            for (command, note), names in commands.items()
        ),
    )


def _run_row(reported: ReportedRun) -> tuple[str, ...]:
    run = reported.run
    return (
        run.name,
        reported.label,
        str(run.seed),
        status_in_words(run),
        MISSING if run.wall_seconds is None else duration(run.wall_seconds),
        run.sha256[:HASH],
        (reported.adapter or MISSING)[:HASH],
    )


def _named(names: Sequence[str], runs: Sequence[ReportedRun]) -> str:
    if len(names) == len(runs):
        return "All runs"
    return joined(names) if len(names) <= 4 else f"{len(names)} runs ({names[0]} to {names[-1]})"
