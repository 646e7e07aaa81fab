"""One run directory as the report tells it: what it is, what it measured, and what was found out about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.files.manifest import HASH_LENGTH, KEY, unseal
from lopsided.files.strict_json import NULLS
from lopsided.files.untrusted import open_tensors
from lopsided.runs import Run, read_run
from lopsided.runs.directory import PREDICTIONS
from lopsided.runs.measured_bound import bound_of_run
from lopsided.study.by_task import TaskBoard, status_in_words
from lopsided.study.comparison import Origin
from lopsided.theory.information import InformationBound

NO_COMMAND = "no command was recorded"


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """A run, its place in the page, and what the page tells of it besides its record.

    Args:
        label, group: its row, and the key of its leaderboard.
        adapter: the hash of the adapter's manifest, which holds one hash per tensor; None without one.
        bound, bound_note: the information bound, or why there is none; both are None where none was asked for.
        command, command_note: what made it, or why that is not known.
    """

    run: Run
    label: str
    group: str
    adapter: str | None
    bound: InformationBound | None
    bound_note: str | None
    command: str | None
    command_note: str | None

    @property
    def nulls(self) -> dict[str, str]:
        """Where record and diagnosis have null for a number that is not finite, and what that was."""
        lost = (self.run.diagnosis or {}).get(NULLS, {})
        return {**self.run.nulls, **{f"diagnosis.{place}": number for place, number in lost.items()}}

    @property
    def not_finite(self) -> int:
        """How many of its numbers are not finite; the losses of a landscape are counted in its diagnosis."""
        landscape = (self.run.diagnosis or {}).get("landscape")
        return len(self.nulls) + (int(landscape["not_finite"]) if landscape else 0)

    def to_json(self) -> dict[str, Any]:
        """Return the run as the page's figures and `lopsided report --json` have it."""
        run = self.run
        return {
            "id": run.id,
            "sha256": run.sha256,
            "folder": str(run.folder),
            "name": run.name,
            "status": status_in_words(run),
            "error": run.error,
            **_settings(run),
            **(_measured(run) if run.is_finished else {}),
            "adapter": self.adapter,
            "diagnosis": run.diagnosis,
            "diagnosis_note": run.diagnosis_note,
            "nulls": self.nulls,
            "not_finite": self.not_finite,
            "command": self.command,
            "command_note": self.command_note,
            "bound": None if self.bound is None else _bound_json(self.bound),
            "bound_note": self.bound_note,
            "label": self.label,
            "group": self.group,
        }


def whole_run(folder: Path) -> Run:
    """Read a run directory.

    Raises:
        LopsidedError: if its run.json is not ours, or it lacks what a finished run has.
    """
    run = read_run(folder)
    if run is None:
        raise LopsidedError(f"{folder} is not a run: expected run.json in it, received none; train it first")
    if run.is_finished and not (folder / PREDICTIONS).is_file():
        raise LopsidedError(
            f"{folder} is not a whole run: expected predictions.npz next to its run.json, received none; train it again"
        )
    return run


def reported_run(run: Run, board: TaskBoard, origin: Origin | None, *, bounds: bool) -> ReportedRun:
    """Return what the page tells of a run.

    Args:
        board: the leaderboard that it is in.
        origin: the comparison that it belongs to.
        bounds: whether to compute its bound, which needs its model's configuration.
    """
    bound, bound_note = _bound(run) if run.is_finished and bounds else (None, None)
    command = run.command if origin is None else origin.command
    return ReportedRun(
        run=run,
        label=board.labels[run.folder],
        group=board.key,
        adapter=_adapter_hash(run.folder) if run.is_finished else None,
        bound=bound,
        bound_note=bound_note,
        command=command,
        command_note=None if command else NO_COMMAND,
    )


def _settings(run: Run) -> dict[str, Any]:
    return {
        "method": run.method.name,
        "parts": run.section("method"),
        "trains": run.method.side.title,
        "floor": run.method.side.head_alone,
        "source": run.method.source,
        "model": run.settings["model"],
        "task": run.settings["task"],
        "seed": run.seed,
        "config": run.settings,
        "versions": run.versions,
        "machine": run.machine,
    }


def _measured(run: Run) -> dict[str, Any]:
    return {
        "task_record": run.section("task"),
        "steps": run.steps,
        "best_step": run.best_step,
        "learning_rate": run.learning_rate,
        "metrics": run.section("metrics"),
        "generalization_error": run.section("generalization_error"),
        "train": [list(point) for point in run.losses("train")],
        "validation": [list(point) for point in run.losses("validation")],
        "links": run.links,
        "boundaries": [] if run.chain is None else list(run.chain.boundaries),
        "wall_seconds": run.wall_seconds,
    }


def _adapter_hash(folder: Path) -> str | None:
    path = folder / "adapter" / "adapter_model.safetensors"
    if not path.is_file():
        return None
    with open_tensors(path) as tensors:
        names = [name for name in tensors.keys() if name.rpartition(".")[2] == KEY]  # noqa: SIM118 - no mapping
        sealed = {name: tensors.get_tensor(name) for name in names}
    # Raises for a manifest that differs from its own hash, which comes first in it.
    unseal(sealed)
    return next((bytes(tensor[:HASH_LENGTH].tolist()).decode() for tensor in sealed.values()), None)


def _bound(run: Run) -> tuple[InformationBound | None, str | None]:
    try:
        return bound_of_run(run.folder).bound, None
    except LopsidedError as error:
        return None, str(error)


def _bound_json(bound: InformationBound) -> dict[str, Any]:
    return {"value": bound.value, "trained": bound.trained, "sigma": bound.sigma.value}
