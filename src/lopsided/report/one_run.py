"""One run directory as the report tells it: what it is, what it measured, and what was found out about it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopsided.diagnose import diagnosis as diagnose
from lopsided.errors import LopsidedError
from lopsided.files.atomic import file_hash
from lopsided.files.manifest import HASH_LENGTH, KEY, unseal
from lopsided.files.strict_json import NULLS, loads
from lopsided.files.untrusted import open_tensors
from lopsided.method import side_named
from lopsided.runs import TrainConfig, read_run
from lopsided.runs.directory import run_id
from lopsided.runs.measured_bound import bound_of_run
from lopsided.study.columns import Run
from lopsided.study.leaderboard import read_finished

# What a finished run's record has beyond an unfinished one's.
FINISHED = (
    *("model", "task", "learning_rate", "trained_parameters", "metrics", "generalization_error", "history"),
    *("timings", "kept_bytes", "adapter_bytes", "chain", "steps"),
)
# Settings of a run that `lopsided train` has no option for.
NO_OPTION = ("train_rows", "test")


@dataclass(frozen=True)
class Loaded:
    """A run directory: what the page shows of it, and the record that columns read; None if it did not finish."""

    shown: dict[str, Any]
    run: Run | None


def load_run(folder: Path, *, bounds: bool) -> Loaded:
    """Read a run directory.

    Raises:
        LopsidedError: if its run.json is not ours, or lacks what a finished run has.
    """
    record = read_run(folder)
    if record is None:
        raise LopsidedError(f"{folder} is not a run: expected run.json in it, received none; train it first")
    finished = record["status"] == "finished"
    _check(folder, record, finished)
    diagnosis, note = _diagnosis(folder)
    lost = (diagnosis or {}).get(NULLS, {})
    nulls = {**record.get(NULLS, {}), **{f"diagnosis.{at}": was for at, was in lost.items()}}
    shown = {
        "id": run_id(folder),
        "sha256": file_hash(folder / "run.json"),
        "folder": str(folder),
        "name": folder.resolve().name,
        "status": {"running": "unfinished"}.get(record["status"], record["status"]),
        "error": record.get("error"),
        **_settings(record),
        **(_measured(record) if finished else {}),
        "adapter": _adapter_hash(folder) if finished else None,
        "diagnosis": diagnosis,
        "diagnosis_note": note,
        "nulls": nulls,
        "not_finite": len(nulls) + _lost_in_landscape(diagnosis),
        **_again(folder, record),
        **(_bound(folder) if finished and bounds else {"bound": None, "bound_note": None}),
    }
    return Loaded(shown, read_finished(folder) if finished else None)


def _check(folder: Path, record: dict[str, Any], finished: bool) -> None:
    needed = ("config", "method", "versions", "machine", *(FINISHED if finished else ()))
    if missing := [key for key in needed if key not in record]:
        raise LopsidedError(
            f"{folder / 'run.json'} is not a whole run: expected {', '.join(needed)}, received none of "
            f"{', '.join(missing)}; train it again"
        )
    if finished and not (folder / "predictions.npz").is_file():
        raise LopsidedError(
            f"{folder} is not a whole run: expected predictions.npz beside its run.json, received none; train it again"
        )


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    config, method = record["config"], record["method"]
    side = side_named(method["train"])
    return {
        "method": method["name"],
        "parts": method,
        "trains": side.title,
        "floor": side.head_alone,
        "source": method["source"],
        "model": config["model"],
        "task": config["task"],
        "seed": config["seed"],
        "config": config,
        "versions": record["versions"],
        "machine": record["machine"],
    }


def _measured(record: dict[str, Any]) -> dict[str, Any]:
    history = record["history"]
    chain = record["chain"]
    return {
        "task_record": record["task"],
        "steps": record["steps"],
        "best_step": record.get("best_step"),
        "learning_rate": record["learning_rate"],
        "metrics": record["metrics"],
        "generalization_error": record["generalization_error"],
        "train": [[entry["step"], entry["loss"]] for entry in history if "loss" in entry],
        "validation": [[entry["step"], entry["eval_loss"]] for entry in history if "eval_loss" in entry],
        "links": 1 if chain is None else chain["links"],
        "boundaries": [] if chain is None else chain["boundaries"],
        "wall_seconds": record.get("wall_seconds"),
    }


def _diagnosis(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """What `lopsided diagnose` found, or why it is not shown."""
    path = folder / diagnose.FILE
    if not path.is_file():
        return None, None
    try:
        found = loads(path.read_text())
    except json.JSONDecodeError as error:
        raise LopsidedError(f"{path}:{error.lineno}: not JSON ({error.msg}); diagnose the run again") from error
    if not isinstance(found, dict) or found.get("schema") != diagnose.SCHEMA:
        return None, f"its diagnosis.json is not of schema {diagnose.SCHEMA}: run `lopsided diagnose {folder}` again"
    if found["run"]["id"] != run_id(folder):
        return None, f"its diagnosis.json is of an earlier state: run `lopsided diagnose {folder}` again"
    return found, None


def _lost_in_landscape(diagnosis: dict[str, Any] | None) -> int:
    """How many losses `lopsided diagnose` wrote as null because they were not finite."""
    landscape = (diagnosis or {}).get("landscape")
    return int(landscape["not_finite"]) if landscape else 0


def _adapter_hash(folder: Path) -> str | None:
    """The hash of the manifest that the adapter's file carries, which holds one of each tensor; None without one."""
    path = folder / "adapter" / "adapter_model.safetensors"
    if not path.is_file():
        return None
    with open_tensors(path) as tensors:
        names = [name for name in tensors.keys() if name.rpartition(".")[2] == KEY]  # noqa: SIM118 - no mapping
        sealed = {name: tensors.get_tensor(name) for name in names}
    # Raises for a manifest that differs from its own hash, which comes first in it.
    unseal(sealed)
    return next((bytes(tensor[:HASH_LENGTH].tolist()).decode() for tensor in sealed.values()), None)


def _bound(folder: Path) -> dict[str, Any]:
    """The information bound of a finished run, or why there is none."""
    try:
        found = bound_of_run(folder)
    except LopsidedError as error:
        return {"bound": None, "bound_note": str(error)}
    bound = {"value": found.bound.value, "trained": found.bound.trained, "sigma": found.bound.sigma.value}
    return {"bound": bound, "bound_note": None}


def _again(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The command that makes the run again: that of the comparison which it belongs to, or `lopsided train`."""
    results = folder.resolve().parent.parent / "results.json"
    if folder.resolve().parent.name == "runs" and results.is_file():
        try:
            return {"command": json.loads(results.read_text())["command"], "command_note": None}
        except (json.JSONDecodeError, KeyError, TypeError):
            # Another program's results.json: the run's own settings say enough.
            pass
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    words = ["lopsided", "train"]
    other = []
    for key, value in record["config"].items():
        if value == defaults.get(key) and key not in ("method", "seed"):
            continue
        if key in NO_OPTION:
            other.append(f"{key}={value}")
            continue
        words += _option(key, value)
    note = f"`lopsided train` has no option for {', '.join(other)}" if other else None
    return {"command": shlex.join(words), "command_note": note}


def _option(key: str, value: Any) -> list[str]:
    name = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [name] if value else [name.replace("--", "--no-", 1)]
    if isinstance(value, dict):
        return [name, ",".join(f"{old}={new}" for old, new in value.items())]
    if isinstance(value, list):
        return [name, ",".join(value)]
    return [name, str(value)]
