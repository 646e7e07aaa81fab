"""Runs of experiments on disk: a folder with result.json and its plots, and a page about several."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lopsided
from lopsided.errors import LopsidedError
from lopsided.files.atomic import atomic_folder, write_json, write_text
from lopsided.files.strict_json import loads, strict
from lopsided.lab.protocol import Experiment, Outcome, Request, verdict
from lopsided.lab.rejudge import figure_of, judged
from lopsided.plotting.svg import check_drawable, draw

SCHEMA = 1


def run_experiment(experiment: Experiment, request: Request, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """Run one experiment and leave its folder; returns what result.json holds.

    The folder appears whole or not at all; one that was there is replaced, or with `resume` kept if the same was asked.

    Raises:
        LopsidedError: for data that the experiment can't use; if matplotlib is not installed.
    """
    check_drawable()
    if request.data is not None and not experiment.takes_data:
        raise LopsidedError(f"experiment {experiment.name!r} takes no data, got --data {request.data}; leave it out")
    if resume and (out / "result.json").is_file():
        [(_, result)] = read_results([out])
        if {key: result[key] for key in ("name", "size", "asked")} == _asked(experiment, request):
            return result
    started = time.perf_counter()
    outcome = experiment.run(request)
    result = strict(result_of(experiment, request, outcome, seconds=time.perf_counter() - started))
    with atomic_folder(out) as folder:
        for plot in outcome.plots:
            draw(plot, folder / f"{plot.name}.svg")
        write_json(folder / "result.json", result)
    return result


def _asked(experiment: Experiment, request: Request) -> dict[str, Any]:
    """What one experiment was asked to do, as result.json says it."""
    asked = {"seeds": request.seeds, "data": None if request.data is None else str(request.data)}
    return {"name": experiment.name, "size": request.size, "asked": asked}


def result_of(experiment: Experiment, request: Request, outcome: Outcome, *, seconds: float) -> dict[str, Any]:
    """What result.json holds: claim, verdict, figures beside their ranges and the paper's, settings, plots' data."""
    return {
        "schema": SCHEMA,
        **_asked(experiment, request),
        "claim": experiment.claim,
        "meaning": experiment.meaning,
        "source": experiment.source,
        "verdict": verdict(experiment, outcome),
        "figures": [figure_of(e, m) for e, m in zip(experiment.expected, outcome.measured, strict=True)],
        "settings": plain(outcome.settings),
        "details": plain(outcome.details),
        "plots": [{"file": f"{plot.name}.svg", **plain(plot)} for plot in outcome.plots],
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
    """NumPy's and torch's numbers, dataclasses and paths as what JSON knows."""
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


def read_results(folders: Iterable[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Each folder with its result.json, one of version 0.1.0 judged as ranges are now.

    Raises:
        LopsidedError: for a folder without one, or of another schema.
    """
    found = []
    for folder in folders:
        path = folder / "result.json"
        if not path.is_file():
            raise LopsidedError(f"expected a folder of `lopsided lab`, got {folder} without result.json; run it first")
        result = loads(path.read_text())
        if result.get("schema") != SCHEMA:
            raise LopsidedError(f"{path} has schema {result.get('schema')}, expected {SCHEMA}; run it again")
        found.append((folder, judged(result, exact_figures())))
    return found


def exact_figures() -> frozenset[str]:
    """The figures of all experiments that are computed without sampling, by their words."""
    # Here and not at the top: the table of experiments imports what trains models.
    from lopsided.lab.experiments import EXPERIMENTS

    return frozenset(e.what for experiment in EXPERIMENTS.values() for e in experiment.expected if e.exact)


def write_page(folders: Iterable[Path], page: Path) -> None:
    """A markdown page with every experiment's claim, plot, figures, verdict and settings."""
    results = read_results(folders)
    text = "\n".join([HEAD, _overview(results), *(_section(folder, result, page) for folder, result in results)])
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text(page, text)


HEAD = """# Lab: the papers' claims, put to the test

Each experiment states its claim and the ranges in which the claim would hold before it measures. A range *holds* if the
figure's whole 95 % interval lies in it, *fails* if the whole interval lies outside, and is *undecided* if the interval
crosses a limit, or there is none. What is computed without sampling is *exact*, and judged by its value.

A claim is *reproduced* if every range holds, *partly* reproduced if some fail and some hold, *not reproduced* if some
fail and none holds, and *undecided* if none fails and some are undecided: more seeds may decide it. `lopsided lab NAME
--full` makes a section again; `lopsided lab all --quick` takes a shorter look at all of them.
"""


def _overview(results: list[tuple[Path, dict[str, Any]]]) -> str:
    rows = ["| experiment | claim | verdict | ranges | source |", "|---|---|---|---|---|"]
    for _, result in results:
        rows.append(
            f"| [{result['name']}](#{result['name']}) | {result['claim']} | **{result['verdict']}** | "
            f"{counted(result)} | {result['source']} |"
        )
    return "\n".join(rows) + "\n"


def _section(folder: Path, result: dict[str, Any], page: Path) -> str:
    lines = [f"## {result['name']}", "", f"**Claim.** {result['claim']} ({result['source']})", ""]
    lines += [f"**What it means for a run, where it holds.** {result['meaning']}", ""]
    lines += [f"**Verdict: {result['verdict']}.** {counted(result).capitalize()}.", ""]
    lines += ["| figure | measured | range for the claim | paper | in range |", "|---|---:|---|---:|---|"]
    for found in result["figures"]:
        paper = "" if found["paper"] is None else f"{found['paper']:.4g}"
        lines.append(
            f"| {found['what']} | {measured_text(found)} | {found['tolerance']} | {paper} | {state_text(found)} |"
        )
    lines.append("")
    lines += [f"**Note.** {result['note']}", ""] if result.get("note") else []
    for plot in result["plots"]:
        where = os.path.relpath(folder / plot["file"], page.parent)
        lines += [f"![{plot['title']}]({Path(where).as_posix()})", ""]
    settings = ", ".join(f"{key} {_short(value)}" for key, value in result["settings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        f"Settings ({result['size']}): {settings}. {result['seconds']:g} s on {result['machine']}; {versions}.",
        "",
    ]
    return "\n".join(lines)


def counted(result: Mapping[str, Any]) -> str:
    """How many ranges hold, fail and are undecided, in words.

    Example:
        >>> counted({"figures": [{"state": "holds"}, {"state": "undecided"}]})
        '1 holds, 1 undecided'
    """
    states = [found["state"] for found in result["figures"]]
    words = {"holds": ("holds", "hold"), "fails": ("fails", "fail"), "undecided": ("undecided", "undecided")}
    return ", ".join(f"{n} {words[state][n > 1]}" for state in words if (n := states.count(state)))


def measured_text(found: Mapping[str, Any]) -> str:
    """A figure with its interval, or a dash."""
    if found["value"] is None:
        return "–"
    interval = "" if found["interval"] is None else " [{:.3g}, {:.3g}]".format(*found["interval"])
    return f"{found['value']:.4g}{interval}{', exact' if found['exact'] else ''}"


def state_text(found: Mapping[str, Any]) -> str:
    """Whether a figure's range holds, and why that is undecided."""
    why = found.get("why", {}).get("state")
    return found["state"] if why is None else f"{found['state']}: {why}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_short(inner)}" for key, inner in value.items()) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(_short(inner) for inner in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
