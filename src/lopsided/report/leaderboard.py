"""Runs -> one table for each model and task: means over seeds with intervals, ranks, and what the seeds support.

A row is one method with one set of settings; its runs differ in the seed alone. Runs on another model, another task or
other test rows are in another table, and never averaged with these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from scipy import stats

from lopsided.files.strict_json import WHY
from lopsided.report.one_run import Loaded
from lopsided.stats import student_quantile
from lopsided.study.columns import Column, Run, columns
from lopsided.study.leaderboard import sentences

# Settings that make no run another one.
INDIFFERENT = ("seed", "report_to", "out")


def groups(loaded: Sequence[Loaded]) -> list[dict[str, Any]]:
    """The tables, in the order of the runs; each run's shown part gets its `group` and `label`.

    Returns:
        {"key", "model", "task", "note", "columns", "rows", "absent", "sentences", "shared", "seeds"} each, where
        `absent` lists the runs that have no figures, and why.
    """
    tables: dict[str, list[Loaded]] = {}
    for one in loaded:
        tables.setdefault(_key(one.shown), []).append(one)
    _place_unfinished(tables)
    return [_table(f"g{number}", members) for number, members in enumerate(tables.values())]


def _key(shown: dict[str, Any]) -> str:
    record = shown.get("task_record")
    asked = [shown["model"], shown["task"]]
    # The same name may stand for other rows: a folder that changed, or another label of it.
    return json.dumps(
        [*asked, None if record is None else [record["metric"], record["rows"], record["out_of_domain"]]],
        allow_nan=False,
    )


def _place_unfinished(tables: dict[str, list[Loaded]]) -> None:
    """Runs without figures go to the first table of their model and task, if there is one."""
    for key in [key for key in tables if json.loads(key)[2] is None]:
        asked = json.loads(key)[:2]
        home = next((k for k in tables if k != key and json.loads(k)[:2] == asked and json.loads(k)[2]), None)
        if home is not None:
            tables[home] += tables.pop(key)


def _table(key: str, members: list[Loaded]) -> dict[str, Any]:
    _label(members)
    for one in members:
        one.shown["group"] = key
    ranked: dict[str, list[Run]] = {}
    absent = []
    for one in sorted(members, key=lambda one: one.shown["seed"]):
        if reason := _why_absent(one, ranked.get(one.shown["label"], ())):
            shown = one.shown
            absent.append({"run": shown["name"], "label": shown["label"], "seed": shown["seed"], "why": reason})
        elif one.run is not None:
            ranked.setdefault(one.shown["label"], []).append(one.run)
    first = next((one.shown for one in members if one.run is not None), members[0].shown)
    shown_first = {one.shown["label"]: one.shown for one in reversed(members)}
    cols = columns(first["task_record"]["metric"]) if ranked else []
    rows = [_row(shown_first[label], runs, cols) for label, runs in ranked.items()]
    kept = [
        c for c in cols if any(row["cells"][c.key]["mean"] is not None or WHY in row["cells"][c.key] for row in rows)
    ]
    for column in kept:
        _rank(column, rows, ranked)
    _note_equal_parts(rows, shown_first)
    return {
        "key": key,
        "model": first["model"],
        "task": first["task"],
        "note": first.get("task_record", {}).get("note"),
        "columns": [{k: getattr(c, k) for k in ("key", "title", "unit", "better")} for c in kept],
        "rows": rows,
        "absent": absent,
        "sentences": _sentences(kept, rows),
        "seeds": sorted({one.shown["seed"] for one in members}),
        "shared": _shared(members),
    }


def _label(members: Iterable[Loaded]) -> None:
    """Name each run by its method, and by the settings in which runs of that method differ."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    for one in members:
        by_method.setdefault(one.shown["method"], []).append(one.shown)
    for method, runs in by_method.items():
        varied = [key for key in runs[0]["config"] if key not in INDIFFERENT and _differs(key, runs)]
        for shown in runs:
            parts = [f"{key.replace('_', ' ')} {shown['config'].get(key)}" for key in varied]
            shown["label"] = ", ".join([method, *parts])


def _differs(key: str, runs: Sequence[dict[str, Any]]) -> bool:
    return len({json.dumps(shown["config"].get(key), allow_nan=False) for shown in runs}) > 1


def _why_absent(one: Loaded, before: Sequence[Run]) -> str | None:
    shown = one.shown
    if one.run is None:
        return f"{shown['status']}: {shown['error']}" if shown["error"] else str(shown["status"])
    if "test" not in shown["metrics"]:
        return "made without test figures"
    if shown["seed"] in [run.record["config"]["seed"] for run in before]:
        return f"another run with seed {shown['seed']} and the same settings is in the table"
    return None


def _row(shown: dict[str, Any], runs: Sequence[Run], cols: Sequence[Column]) -> dict[str, Any]:
    return {
        "label": shown["label"],
        "method": shown["method"],
        "trains": shown["trains"],
        "floor": shown["floor"],
        "links": shown["links"],
        "source": shown["source"],
        "learning_rate": shown["learning_rate"],
        "seeds": [run.record["config"]["seed"] for run in runs],
        "same_as": None,
        "status": "ok",
        "cells": {column.key: _cell(column, runs) for column in cols},
    }


def _cell(column: Column, runs: Sequence[Run]) -> dict[str, Any]:
    """Mean and half the 95 % interval: Student's over seeds; with one seed, from the rows that it was tested on."""
    bare: dict[str, Any] = {"mean": None, "half": None, "rank": None, "mark": None, "difference": None}
    found = column.cell(runs)
    if found is None:
        return bare
    half = None if found["se"] is None else _quantile(len(runs)) * found["se"]
    why = {WHY: found[WHY]} if WHY in found else {}
    # No interval around what has no sampling error, such as a count.
    return {**bare, "mean": found["mean"], "half": half or None, **why}


def _quantile(seeds: int) -> float:
    return float(stats.norm.ppf(0.975) if seeds == 1 else student_quantile(seeds - 1))


def _rank(column: Column, rows: Sequence[dict[str, Any]], runs: dict[str, list[Run]]) -> None:
    """Give the first three their places, and every other its difference to the best; the floor does not compete."""
    sign = 1.0 if column.better == "low" else -1.0
    competing = [row for row in rows if not row["floor"] and row["cells"][column.key]["mean"] is not None]
    competing.sort(key=lambda row: sign * row["cells"][column.key]["mean"])
    if not competing:
        return
    best = competing[0]
    for row in competing:
        cell, top = row["cells"][column.key], best["cells"][column.key]
        before = [other for other in competing if sign * other["cells"][column.key]["mean"] < sign * cell["mean"]]
        cell["rank"] = len(before) + 1 if len(before) < 3 else None
        cell["difference"] = cell["mean"] - top["mean"]
        if row is best:
            cell["mark"] = "best"
        elif _tied(column, runs[best["label"]], runs[row["label"]]):
            cell["mark"] = "tied"


def _tied(column: Column, best: Sequence[Run], other: Sequence[Run]) -> bool:
    """Whether the seeds that both have can't tell them apart; with none in common, they can't."""
    by_seed = {run.record["config"]["seed"]: run for run in other}
    pairs = [(run, by_seed[seed]) for run in best if (seed := run.record["config"]["seed"]) in by_seed]
    return not pairs or column.tied([a for a, _ in pairs], [b for _, b in pairs])


def _note_equal_parts(rows: Sequence[dict[str, Any]], shown: dict[str, dict[str, Any]]) -> None:
    """Name the earlier row that has the same parts and settings: with the same seed it is the same run."""
    seen: dict[str, str] = {}
    for row in rows:
        run = shown[row["label"]]
        parts = {key: run["parts"][key] for key in ("train", "sketch", "chain", "lr_ratio", "p")}
        config = {key: value for key, value in run["config"].items() if key not in (*INDIFFERENT, "method", "lr")}
        key = json.dumps([parts, config, run["learning_rate"]], sort_keys=True, allow_nan=False)
        row["same_as"] = seen.get(key)
        seen.setdefault(key, row["label"])


def _sentences(cols: Sequence[Column], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Those of the comparison; methods without a score are named there."""
    if not any(row["cells"].get("score", {}).get("mark") == "best" for row in rows):
        return ["No method finished with a score, so there is nothing to choose from yet."]
    named = [{**row, "method": row["label"]} for row in rows]
    titles = [{"key": column.key, "title": column.title} for column in cols]
    return sentences(titles, named, min(len(row["seeds"]) for row in rows))


def _shared(members: Sequence[Loaded]) -> list[list[str]]:
    """The settings that all runs of the table have in common, as texts; without switches that are off."""
    runs = [one.shown for one in members]
    names = [key for key in runs[0]["config"] if key not in (*INDIFFERENT, "method", "model", "task", "links", "test")]
    values = {key: runs[0]["config"][key] for key in names if not _differs(key, runs)}
    return [
        [key.replace("_", " "), "" if value is True else str(value)]
        for key, value in values.items()
        if value is not None and value is not False
    ]
