"""Finished runs made up for a test: 100 rows, of which some are answered rightly."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lopsided import METHODS
from lopsided.runs import Run, read_run
from lopsided.runs.directory import write_predictions, write_run

ACCURACY = {"name": "accuracy", "greater_is_better": True}
ROWS = 100
TASK = {
    "name": "t",
    "kind": "classification",
    "labels": ["a", "b"],
    "metric": ACCURACY,
    "out_of_domain": [],
    "note": "",
}
_numbers = itertools.count()


def right(*, first: int = 0, last: int = 0) -> np.ndarray:
    """Which of the 100 rows are answered rightly."""
    answered = np.zeros(ROWS, bool)
    answered[:first] = True
    answered[ROWS - last :] |= last > 0
    return answered


@dataclass(frozen=True)
class MadeRun:
    """What a finished run leaves: its record and its rows."""

    record: dict[str, Any]
    rows: dict[str, dict[str, np.ndarray]] = field(repr=False)

    def write(self, folder: Path, seed: int) -> Run:
        """Write it as a run with this seed, and read it again."""
        folder.mkdir(parents=True)
        write_run(folder, {**self.record, "config": {**self.record["config"], "seed": seed}})
        write_predictions(folder, self.rows)
        run = read_run(folder)
        assert run is not None
        return run


def made_run(method: str = "lora", answered: np.ndarray | None = None, **fields: Any) -> MadeRun:
    """A finished run that answers the given rows rightly; its record has `fields` besides, or instead."""
    answered = right(first=50) if answered is None else answered
    labels = np.arange(ROWS) % 2
    score = float(answered.mean())
    rows = {"prediction": np.where(answered, labels, 1 - labels), "label": labels, "loss": np.ones(ROWS)}
    figures = {"score": score, "se": (score * (1 - score) / ROWS) ** 0.5, "loss": 1.0, "rows": ROWS}
    record = {
        "schema": 1,
        "status": "finished",
        "config": {"model": "m", "task": "t"},
        "method": METHODS[method].parts(),
        "versions": {},
        "machine": {},
        "model": {"name": "m", "type": "bert", "parameters": 1},
        "task": {**TASK, "rows": {"test": ROWS}},
        "learning_rate": 1e-3,
        "trained_parameters": 100,
        "metrics": {"test": figures},
        "generalization_error": {"value": 0.1, "se": 0.01},
        "history": [],
        "timings": {"median_ms": 10.0, "se_ms": 0.1, "steps": 27},
        "kept_bytes": 1000,
        "adapter_bytes": 400,
        "chain": {"links": 4, "boundaries": [7, 14, 21]} if METHODS[method].chain else None,
        "steps": 27,
    }
    return MadeRun({**record, **fields}, {"test": rows})


def scored(score: float, **fields: Any) -> MadeRun:
    """A run that answers this share of the rows rightly."""
    return made_run(answered=right(first=round(score * ROWS)), **fields)


def elsewhere(*answers: np.ndarray, **fields: Any) -> MadeRun:
    """A run with one more domain per array of answers."""
    domains = {f"d{number}": made_run(answered=answered) for number, answered in enumerate(answers)}
    run = made_run(task={**TASK, "rows": {"test": ROWS}, "out_of_domain": sorted(domains)}, **fields)
    run.record["metrics"] |= {name: made.record["metrics"]["test"] for name, made in domains.items()}
    run.rows.update({name: made.rows["test"] for name, made in domains.items()})
    return run


def seeds(out: Path, runs: Sequence[MadeRun]) -> list[Run]:
    """The runs on disk, as those of one method with the seeds 0, 1, 2 and so on."""
    return [run.write(out / f"run{next(_numbers)}", seed) for seed, run in enumerate(runs)]


def written(out: Path, runs: Mapping[str, Sequence[MadeRun | None]]) -> dict[str, list[Path]]:
    """The run directories of a comparison, by method; None is a run that did not finish."""
    folders: dict[str, list[Path]] = {}
    for name, by_seed in runs.items():
        for seed, run in enumerate(by_seed):
            folder = out / "runs" / f"{name}-seed{seed}"
            folders.setdefault(name, []).append(folder)
            (run or made_run(status="failed", error="why")).write(folder, seed)
    return folders
