"""Folders -> one structure of plain data, which is all that the page is made of.

{"schema", "title", "versions",
 "groups": [one a model and task, see `leaderboard`],
 "runs":   [one a run directory, see `one_run`],
 "lab", "advice": [what `lopsided lab` and `lopsided advise` wrote],
 "not_finite": how many numbers were not, "notes": [what was left out and why]}

Numbers that are not finite are None here, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lopsided
from lopsided.errors import LopsidedError
from lopsided.files.strict_json import loads
from lopsided.lab.experiments import exact_figures
from lopsided.lab.rejudge import judged
from lopsided.plotting.gaps import Counter
from lopsided.report.folders import find
from lopsided.report.leaderboard import groups
from lopsided.report.one_run import Loaded, load_run

SCHEMA = 1


def gather(paths: Sequence[Path], *, bounds: bool = True) -> dict[str, Any]:
    """What the folders hold, as data that `json.dumps` takes.

    Args:
        paths: run directories, results of `lopsided lab` and `lopsided advise`, or folders that contain them.
        bounds: whether to compute each run's generalization bound, which needs its model's configuration.

    Raises:
        LopsidedError: for bad input; see `folders.find`.
    """
    found = find(paths)
    loaded, notes = _once([load_run(folder, bounds=bounds) for folder in found.run])
    tables = groups(loaded)
    plain: dict[str, Any] = Counter().finite(
        {
            "schema": SCHEMA,
            "title": _title(tables),
            "versions": {"lopsided": lopsided.__version__},
            "groups": tables,
            "runs": [run.shown for run in loaded],
            "lab": [_result(folder, "result.json") for folder in found.lab],
            "advice": [_result(folder, "advice.json") for folder in found.advice],
            "notes": notes,
        }
    )
    # A run's own figures and the means of them would count twice: what the run directories hold is counted.
    plain["not_finite"] = sum(run["not_finite"] for run in plain["runs"])
    return plain


def _once(runs: list[Loaded]) -> tuple[list[Loaded], list[str]]:
    """Each run once: a copy under another name is the same run, and would count as another seed."""
    kept: dict[str, Loaded] = {}
    notes = []
    for run in runs:
        first = kept.setdefault(run.shown["sha256"], run)
        if first is not run:
            notes.append(f"{run.shown['folder']} holds the same run as {first.shown['folder']}, and is left out.")
    return list(kept.values()), notes


def _title(tables: list[dict[str, Any]]) -> str:
    methods = {row["label"] for table in tables for row in table["rows"]}
    counted = f"{len(methods)} method{'' if len(methods) == 1 else 's'}"
    if len(tables) == 1:
        return f"{counted} on {tables[0]['task']}"
    tasks, models = {table["task"] for table in tables}, {table["model"] for table in tables}
    parts = [f"{len(tasks)} tasks" if len(tasks) > 1 else tables[0]["task"]]
    parts += [f"{len(models)} models"] if len(models) > 1 else []
    return f"{counted} on {' and '.join(parts)}"


def _result(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        value = loads(path.read_text())
    except json.JSONDecodeError as error:
        raise LopsidedError(f"{path}:{error.lineno}: not JSON ({error.msg}); make it again") from error
    if not isinstance(value, dict) or value.get("schema") != 1:
        raise LopsidedError(f"{path} is of no schema that this version reads; expected schema 1; make it again")
    # A result of `lopsided lab`, of a version that judged figures without their intervals among them.
    value = judged(value, exact_figures()) if "figures" in value else value
    return {"folder": str(folder), "name": folder.name, **value}
