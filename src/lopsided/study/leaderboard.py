"""Finished runs become one table: a pure function of run directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lopsided.files.strict_json import WHY
from lopsided.method import Method, method_from_parts
from lopsided.runs import read_predictions, read_run
from lopsided.study.columns import Column, Run, columns

NO_FIGURE = {"mean": None, "se": None, "mark": None, WHY: {"mean": "this run does not have it"}}


def read_finished(folder: Path) -> Run | None:
    """The run in that directory, or None if it did not finish."""
    record = read_run(folder)
    if record is None or record["status"] != "finished":
        return None
    return Run(record, read_predictions(folder))


def table(
    out: Path, folders: Mapping[str, Sequence[Path]], errors: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table's columns and rows.

    Args:
        out: what paths in the table are relative to.
        folders: each method's run directories, by seed.
        errors: why a method has none, or not all of them. What its folders hold then is of other settings.
    """
    runs = {name: [read_finished(folder) for folder in paths] for name, paths in folders.items()}
    whole: dict[str, list[Run]] = {
        name: [run for run in found if run is not None]
        for name, found in runs.items()
        if None not in found and name not in errors
    }
    if not whole:
        return [], [_failed(name, errors.get(name, "did not finish")) for name in folders]
    first = next(iter(whole.values()))[0].record
    cols = [c for c in columns(first["task"]["metric"]) if any(c.cell(found) for found in whole.values())]
    rows = []
    for name, paths in folders.items():
        if name in whole:
            links = [str(path.relative_to(out)) for path in paths]
            rows.append({**_row(name, whole[name], cols), "runs": links})
        else:
            rows.append(_failed(name, errors.get(name, "did not finish")))
    for column in cols:
        _mark(column, rows, whole)
    _note_equal_parts(rows, whole)
    return [{k: getattr(c, k) for k in ("key", "title", "unit", "better")} for c in cols], rows


def _row(name: str, runs: Sequence[Run], cols: Sequence[Column]) -> dict[str, Any]:
    record = runs[0].record
    method = method_from_parts(record["method"])
    return {
        "method": name,
        "status": "ok",
        "floor": method.side.head_alone,
        "error": None,
        "same_as": None,
        "source": method.source,
        "trains": method.side.title,
        "links": record["chain"]["links"] if record["chain"] else 1,
        "learning_rate": record["learning_rate"],
        "cells": {column.key: column.cell(runs) or dict(NO_FIGURE) for column in cols},
    }


def _failed(name: str, error: str) -> dict[str, Any]:
    return {
        "method": name,
        "status": "failed",
        "floor": False,
        "error": error,
        "same_as": None,
        "cells": {},
        "runs": [],
    }


def _mark(column: Column, rows: Sequence[dict[str, Any]], runs: Mapping[str, Sequence[Run]]) -> None:
    """Mark the best method of a column, and those that can't be told from it.

    The floor does not compete, nor does a method without a figure.
    """
    competing = [row for row in rows if row["status"] == "ok" and not row["floor"] and _has(row, column.key)]
    if not competing:
        return
    sign = 1.0 if column.better == "low" else -1.0
    best = min(competing, key=lambda row: sign * row["cells"][column.key]["mean"])
    for row in competing:
        if row is best:
            row["cells"][column.key]["mark"] = "best"
        elif column.tied(runs[best["method"]], runs[row["method"]]):
            row["cells"][column.key]["mark"] = "tied"


def _has(row: Mapping[str, Any], key: str) -> bool:
    return row["cells"][key]["mean"] is not None


def _note_equal_parts(rows: Sequence[dict[str, Any]], runs: Mapping[str, Sequence[Run]]) -> None:
    """Name the earlier method that has the same parts, learning rate included: it is the same run."""
    seen: dict[tuple[Any, ...], str] = {}
    for row in rows:
        if row["status"] == "ok":
            parts = _defining_parts(method_from_parts(runs[row["method"]][0].record["method"]))
            row["same_as"] = seen.get((*parts, row["learning_rate"]))
            seen.setdefault((*parts, row["learning_rate"]), row["method"])


def _defining_parts(method: Method) -> tuple[Any, ...]:
    return (method.train, method.sketch, method.chain, method.lr_ratio, method.p)


def _costs(row: Mapping[str, Any], key: str) -> bool:
    return key in row["cells"] and _has(row, key)


def sentences(cols: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], seeds: int) -> list[str]:
    """Which method to take, and how far the figures carry."""
    finished = [row for row in rows if row["status"] == "ok" and not row["floor"]]
    if not finished:
        return ["No method finished, so there is nothing to choose from."]
    title = next((c["title"] for c in cols if c["key"] == "score"), "test score")
    ok = [row for row in finished if "score" in row["cells"] and _has(row, "score")]
    if not ok:
        return [f"No method has a {title}, so there is nothing to choose from."]
    front = [row for row in ok if row["cells"]["score"]["mark"] in ("best", "tied")]
    best = next(row for row in front if row["cells"]["score"]["mark"] == "best")
    # Among equals the cheapest: fewest trained numbers, then least memory, then the faster step, as far as all of them
    # have the figure.
    costs = [k for k in ("trained_parameters", "kept_bytes", "step_ms") if all(_costs(row, k) for row in front)]
    # Of methods with equal parts the first: the noise of their step times is no reason to take another.
    first_of_equals = [row for row in front if row["same_as"] is None] or front
    take = min(first_of_equals, key=lambda row: tuple(row["cells"][key]["mean"] for key in costs))
    if len(ok) == 1:
        what = "competed and finished" if len(finished) == 1 else f"finished with a {title}"
        first = f"{take['method']} is the only method that {what}, so there is nothing to choose from."
    elif len(front) == 1:
        first = f"Take {take['method']}: its {title} is the best, and the data tell every other method from it."
    else:
        standing = "is the best" if take is best else f"can't be told from the best ({best['method']})"
        first = (
            f"Take {take['method']}: its {title} {standing}, and of the {len(front)} methods of which that holds it is "
            f"the cheapest to train: {take['cells']['trained_parameters']['mean']:,.0f} numbers, and "
            f"{take['cells']['kept_bytes']['mean'] / 2**20:.0f} MiB kept for backward."
        )
    lacking = [row["method"] for row in finished if row not in ok]
    if lacking:
        first += f" Without a {title}, and left out: {', '.join(lacking)}."
    if seeds == 1:
        second = (
            "This is one seed: ties come from the sampling error of the test rows alone, and another seed may "
            "order the tied methods differently; --seeds 0,1,2 tells more."
        )
    else:
        second = f"Ties come from paired intervals over {seeds} seeds."
    return [first, second]
