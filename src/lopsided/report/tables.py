"""Plain tables of the page: the lab's verdicts, advice, and which runs these are."""

from __future__ import annotations

import math
from typing import Any

from lopsided.finite import is_finite
from lopsided.formatting import MISSING, duration, joined
from lopsided.lab.recorded_figure import count_states
from lopsided.method import Side, side_named

# A hash is quoted by its beginning, as elsewhere.
HASH = 12
NO_ADVICE = "It has no estimate for a method of one factor."


def lab_table(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an experiment; no table where there is none."""
    if not results:
        return []
    held = [result for result in results if result["verdict"] == "reproduced"]
    rows = [
        [
            result["name"],
            result["claim"],
            result["verdict"],
            count_states(figure["state"] for figure in result["figures"]),
            result["size"],
            result["source"],
        ]
        for result in results
    ]
    failed = [result["name"] for result in results if result["verdict"] in ("partly", "not reproduced")]
    open_ = [result["name"] for result in results if result["verdict"] == "undecided"]
    parts = [f"Don't choose by the claims behind {joined(failed)}."] if failed else []
    parts += [f"Undecided, which more seeds may change: {joined(open_)}."] if open_ else []
    means = " ".join(parts) or "The claims may be chosen by."
    return [
        {
            "key": "lab",
            "title": "The papers' claims, put to the test",
            "shows": f"{len(held)} of {len(results)} claims were reproduced within ranges that were stated beforehand.",
            "means": means,
            "caption": "What `lopsided lab` measured",
            "head": ["experiment", "claim", "verdict", "ranges", "size", "source"],
            "rows": rows,
            "commands": [],
        }
    ]


def advice_tables(advices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One table for each model and task that `lopsided advise` looked at."""
    return [_advice(number, advice) for number, advice in enumerate(advices)]


def _advice(number: int, advice: dict[str, Any]) -> dict[str, Any]:
    settings = advice["settings"]
    # An estimate that is missing is no estimate of 0: it comes last, and is no method to try.
    totals = sorted(
        advice["totals"], key=lambda total: -total["reduction"] if is_finite(total["reduction"]) else math.inf
    )
    rows = [
        [
            total["method"],
            _trains(side_named(total["side"])),
            "–".join(str(rank) for rank in dict.fromkeys(total["ranks"])),
            f"{total['trained']:,}",
            _number(total["reduction"]),
            _number(total["fitted"]),
        ]
        for total in totals
    ]
    estimated = [total for total in totals if is_finite(total["reduction"])]
    single = [total for total in estimated if not side_named(total["side"]).gain_is_bound]
    best = single[0]["method"] if single else None
    return {
        "key": f"advice-{number}",
        "title": f"Advice for {settings['task']} with {settings['model']}",
        "shows": (
            "The estimated reduction of the loss by each method at equal trained numbers, from "
            f"{advice['predictions']} predictions, before any run."
        ),
        "means": f"Among methods of one factor, try {best} first."
        if best
        else "It has no estimate for a method of one factor.",
        "caption": f"Layers are added up as if each were trained alone; {advice['unit']}",
        "head": ["method", "trains", "rank", "trained numbers", "expected reduction", "on the rows seen"],
        "rows": rows,
        "commands": [],
    }


def _trains(side: Side) -> str:
    return f"{side.title}, an upper bound" if side.gain_is_bound else side.title


def _number(value: float | None) -> str:
    return f"{value:.3g}" if is_finite(value) else MISSING


def run_table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Which runs these are: hashes, seeds, versions, and the commands that make them again."""
    rows = [
        [
            run["name"],
            run["label"],
            str(run["seed"]),
            run["status"],
            duration(run["wall_seconds"]) if is_finite(run.get("wall_seconds")) else MISSING,
            run["sha256"][:HASH],
            (run["adapter"] or MISSING)[:HASH],
        ]
        for run in runs
    ]
    commands: dict[tuple[str, str | None], list[str]] = {}
    versions: dict[str, list[str]] = {}
    for run in runs:
        commands.setdefault((run["command"], run["command_note"]), []).append(run["name"])
        text = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
        where = f"{run['machine']['processor']}, {run['machine']['cores']} cores"
        versions.setdefault(f"{text}; {where}", []).append(run["name"])
    again = [
        (f"{_named(names, runs)} again by{f' ({note})' if note else ''}", command)
        for (command, note), names in commands.items()
    ]
    made = [f"{_named(names, runs)} with {text}." for text, names in versions.items()]
    return {
        "key": "runs",
        "title": "Which runs these are",
        "shows": "Two reports with equal hashes were made of the same runs.",
        "means": " ".join(made),
        "caption": "Run directories; hashes by their first twelve characters",
        "head": ["run", "method", "seed", "status", "took", "sha256 of run.json", "hash of the adapter"],
        "rows": rows,
        "commands": again,
    }


def _named(names: list[str], runs: list[dict[str, Any]]) -> str:
    if len(names) == len(runs):
        return "All runs"
    return joined(names) if len(names) <= 4 else f"{len(names)} runs ({names[0]} to {names[-1]})"
