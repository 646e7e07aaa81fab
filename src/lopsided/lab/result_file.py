"""Runs of experiments on disk: a folder with result.json and its plots, and the typed view of one."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lopsided
from lopsided.errors import LopsidedError
from lopsided.files.atomic import atomic_folder, write_json
from lopsided.files.strict_json import loads
from lopsided.lab.experiments import exact_figures
from lopsided.lab.protocol import Experiment, Outcome, Request, Size, Verdict, verdict
from lopsided.lab.recorded_figure import RecordedFigure, count_states
from lopsided.lab.rejudge import judged
from lopsided.plotting.svg import check_drawable, draw

SCHEMA = 1
RECORD = "result.json"


@dataclass(frozen=True, kw_only=True)
class DrawingFile:
    """A drawing of a result: its file in the result's folder, and its title."""

    file: str
    title: str


@dataclass(frozen=True, kw_only=True)
class LabResult:
    """A folder of `lopsided lab`, read once.

    Args:
        folder: where it lies.
        size: "quick" or "full".
        figures: with their ranges, in the order of the claim's statements.
        settings: everything that the figures depend on, apart from the seeds.
        plots: the drawings in the folder.
        seconds: how long the experiment took.
        note: a remark of a person about the result; "" where there is none.
        record: the whole of result.json.
    """

    folder: Path
    name: str
    size: Size
    claim: str
    meaning: str
    source: str
    verdict: Verdict
    figures: tuple[RecordedFigure, ...]
    settings: Mapping[str, Any]
    plots: tuple[DrawingFile, ...]
    seconds: float
    machine: str
    versions: Mapping[str, str]
    note: str
    record: Mapping[str, Any] = field(repr=False)

    @property
    def counts(self) -> str:
        """How many ranges hold, fail and are undecided, in words."""
        return count_states(figure.state for figure in self.figures)

    def answers(self, experiment: Experiment, request: Request) -> bool:
        """Return whether this is what a request asks of an experiment."""
        return all(self.record[key] == value for key, value in _request_json(experiment, request).items())


def run_experiment(experiment: Experiment, request: Request, out: Path, *, resume: bool = False) -> LabResult:
    """Run one experiment and write its folder.

    The folder appears whole or not at all. One that was there is replaced, or with `resume` kept if it answers the same
    request.

    Raises:
        LopsidedError: for data that the experiment cannot use; if matplotlib is not installed.
    """
    check_drawable()
    if request.data is not None and not experiment.takes_data:
        raise LopsidedError(f"experiment {experiment.name!r} takes no data, got --data {request.data}; leave it out")
    if resume and (out / RECORD).is_file():
        earlier = read_result(out)
        if earlier.answers(experiment, request):
            return earlier
    started = time.perf_counter()
    outcome = experiment.run(request)
    record = result_record(experiment, request, outcome, seconds=time.perf_counter() - started)
    with atomic_folder(out) as folder:
        for drawing in outcome.plots:
            draw(drawing, folder / f"{drawing.name}.svg")
        write_json(folder / RECORD, record)
    return read_result(out)


def read_result(folder: Path) -> LabResult:
    """Return the result in a folder; one of version 0.1.0 is judged as ranges are now.

    Raises:
        LopsidedError: for a folder without a result, or one of another schema.
    """
    path = folder / RECORD
    if not path.is_file():
        raise LopsidedError(f"expected a folder of `lopsided lab`, got {folder} without result.json; run it first")
    record = loads(path.read_text())
    if record.get("schema") != SCHEMA:
        raise LopsidedError(f"{path} has schema {record.get('schema')}, expected {SCHEMA}; run it again")
    record = judged(record, exact_figures())
    return LabResult(
        folder=folder,
        name=record["name"],
        size=record["size"],
        claim=record["claim"],
        meaning=record["meaning"],
        source=record["source"],
        verdict=record["verdict"],
        figures=tuple(RecordedFigure.from_json(entry) for entry in record["figures"]),
        settings=record["settings"],
        plots=tuple(DrawingFile(file=plot["file"], title=plot["title"]) for plot in record["plots"]),
        seconds=record["seconds"],
        machine=record["machine"],
        versions=record["versions"],
        note=record.get("note", ""),
        record=record,
    )


def result_record(experiment: Experiment, request: Request, outcome: Outcome, *, seconds: float) -> dict[str, Any]:
    """Return what result.json holds: claim, verdict, figures with their ranges, settings, the drawings' data."""
    figures = [RecordedFigure.judge(e, m) for e, m in zip(experiment.expected, outcome.measured, strict=True)]
    return {
        "schema": SCHEMA,
        **_request_json(experiment, request),
        "claim": experiment.claim,
        "meaning": experiment.meaning,
        "source": experiment.source,
        "verdict": verdict(experiment, outcome),
        "figures": [figure.to_json() for figure in figures],
        "settings": plain(outcome.settings),
        "details": plain(outcome.details),
        "plots": [{"file": f"{drawing.name}.svg", **plain(drawing)} for drawing in outcome.plots],
        "seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "lopsided": lopsided.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def plain(value: Any) -> Any:
    """Return NumPy's and torch's numbers, dataclasses and paths as types that JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _request_json(experiment: Experiment, request: Request) -> dict[str, Any]:
    """What result.json says about the request, by which `--resume` knows it again."""
    asked = {"seeds": request.seeds, "data": None if request.data is None else str(request.data)}
    return {"name": experiment.name, "size": request.size, "asked": asked}
