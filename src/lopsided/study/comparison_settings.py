"""The settings of a comparison, written when it begins, so that it can be resumed from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.files.strict_json import loads
from lopsided.method import METHODS
from lopsided.runs import TrainConfig, read_run
from lopsided.runs.directory import RECORD
from lopsided.runs.resumption import adopt_method, refuse_others
from lopsided.study.comparison import RESULTS, RUNS

SETTINGS = "comparison.json"
SCHEMA = 1


def write_settings(folder: Path, *, run: TrainConfig, **settings: Any) -> None:
    """Write what a comparison was asked for.

    Args:
        folder: of the comparison.
        run: what all runs share.
        settings: the other fields of `CompareConfig`, as plain data.
    """
    write_json(folder / SETTINGS, {"schema": SCHEMA, **settings, "run": run.to_json()})


def resumed_settings(folder: Path, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the arguments of the `CompareConfig` of the comparison in a folder.

    Methods that this process lacks are registered from the records of their runs.

    Args:
        folder: of the comparison.
        given: settings that are asked for, which must be those that are there.

    Raises:
        LopsidedError: if there is no comparison, it does not say what it was asked for, or has other settings.
    """
    if (folder / SETTINGS).is_file():
        settings = _checked(folder / SETTINGS, loads((folder / SETTINGS).read_text()))
    elif (folder / RESULTS).is_file():
        settings = _of_results(folder, _checked(folder / RESULTS, loads((folder / RESULTS).read_text())))
    elif (folder / RUNS).is_dir():
        raise LopsidedError(
            f"{folder} holds a comparison of version 0.1.0 that is not over, which does not say what it was asked for; "
            "give the options that it began with next to --resume"
        )
    else:
        raise LopsidedError(
            f"{folder} holds nothing to resume; expected the folder of a comparison; check it, or begin one there "
            "without --resume"
        )
    for record in sorted(folder.glob(f"{RUNS}/*/{RECORD}")):
        run = read_run(record.parent)
        assert run is not None, record
        adopt_method(run)
    settings["run"] = TrainConfig(**settings["run"], out=folder)
    refuse_others(
        folder, given or {}, {**settings["run"].to_json(), **{name: settings.get(name) for name in ("links", "tune")}}
    )
    return settings


def _checked(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise LopsidedError(f"{path} is not a comparison of schema {SCHEMA}; choose another folder")
    return {
        **{name: tuple(content[name]) for name in ("methods", "seeds") if name in content},
        **{name: value for name, value in content.items() if name not in ("methods", "seeds", "schema")},
    }


def _of_results(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a comparison of version 0.1.0 that is over, from its results and its runs."""
    runs = [run for path in sorted(folder.glob(f"{RUNS}/*")) if (run := read_run(path)) is not None]
    links = [run.settings["links"] for run in runs if run.settings["links"] is not None]
    unchained = next(name for name, method in METHODS.items() if method.chain is None)
    return {
        "methods": tuple(row["method"] for row in results["rows"]),
        "seeds": results["seeds"],
        "links": links[0] if links else None,
        "command": results["command"],
        "run": {**results["settings"], "links": None, "method": unchained},
    }
