"""diagnosis.json: everything that is looked at after training, for one run or one adapter."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopsided.diagnose.config import DiagnoseConfig
from lopsided.diagnose.kept_diagnosis import closer_fields, holds_all, saved_settings
from lopsided.diagnose.section import Need, Section
from lopsided.diagnose.section_inputs import WITHOUT_RUN, AdapterInputs, RunInputs, SectionInputs
from lopsided.diagnose.section_progress import Note, SectionLines, SectionProgress, silent
from lopsided.diagnose.sections import SECTIONS
from lopsided.diagnose.tuned_model import TunedModel
from lopsided.errors import LopsidedError
from lopsided.files.atomic import write_json
from lopsided.files.strict_json import strict
from lopsided.files.untrusted import read_json
from lopsided.runs.measure import machine, versions
from lopsided.runs.run import Run, finished_run, read_run, run_folders
from lopsided.runs.saved_diagnosis import DIAGNOSIS, DIAGNOSIS_SCHEMA


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a diagnosis came to.

    Args:
        sections: what each section computed, by its name, in the order in which they were computed.
        skipped: why a section that was asked for is not among them, by its name.
    """

    sections: Mapping[str, Any]
    skipped: Mapping[str, str]


def diagnose_runs(
    paths: Sequence[str | Path],
    config: DiagnoseConfig,
    *,
    resume: bool = False,
    keep_closer: bool = False,
    command: str = "lopsided diagnose",
    note: Note = silent,
    progress: SectionProgress | None = None,
) -> dict[Path, dict[str, Any]]:
    """Look at every finished run in these folders, and compare those that have tuned layers.

    Args:
        paths: run directories, or folders of them.
        resume: keep a diagnosis that was made of the same run with the same settings.
        keep_closer: keep a diagnosis of the same run that looked closer at the same: on a finer landscape, at more
            rows, or at all vectors.
        command: the command line, for the record.
        note: tells a person which runs are left out, or whose closer diagnosis is replaced.
        progress: follows runs and sections; None tells `note`.

    Returns:
        Each finished run's diagnosis, by its folder.

    Raises:
        LopsidedError: if there is no run, or none that finished.
    """
    finished = _finished_runs(paths, note)
    progress = progress or SectionLines(note)
    models: dict[Path, TunedModel] = {}
    for number, run in enumerate(finished, start=1):
        saved = saved_settings(run)
        closer = closer_fields(saved, config)
        why = "is diagnosed" if resume and saved == config.to_json() else ""
        if keep_closer and saved and closer and holds_all(saved, config):
            why = f"has a closer diagnosis ({closer}), which is kept; --full makes it again"
        if why:
            progress.kept_run(run.folder.name, number, len(finished), why)
            tuned, _ = _tuned_or_reason(RunInputs(run, config, progress))
        else:
            progress.begin_run(run.folder.name, number, len(finished))
            if closer:
                note(f"{run.folder.name}: a closer diagnosis ({closer}) is replaced")
            tuned = diagnose_run(run.folder, config, command=command, progress=progress)
            progress.end_run()
        if tuned is not None:
            # The weights of many runs would not fit.
            models[run.folder] = dataclasses.replace(tuned, layers=())
    if len(models) > 1:
        _compare(models)
    return {run.folder: strict(read_json(run.folder / DIAGNOSIS)) for run in finished}


def diagnose_run(
    folder: str | Path,
    config: DiagnoseConfig,
    *,
    command: str = "lopsided diagnose",
    progress: SectionProgress | None = None,
) -> TunedModel | None:
    """Look at a finished run, and write its diagnosis.json.

    Returns:
        What was looked at; None for a run that trained a head alone.

    Raises:
        LopsidedError: if the folder holds no finished run.
    """
    started, run = time.perf_counter(), finished_run(folder)
    inputs = RunInputs(run, config, progress)
    tuned, reason = _tuned_or_reason(inputs)
    skipped = {
        section.name: reason
        for section in _in_turn()
        if tuned is None and Need.LAYERS in section.needs and section.name in config.only
    }
    findings = _compute(inputs, skipped)
    write_json(run.folder / DIAGNOSIS, _whole(findings, config, {"id": run.id, "name": run.name}, command, started))
    return tuned


def diagnose_adapter(
    adapter: str | Path,
    base: str,
    out: str | Path,
    config: DiagnoseConfig,
    *,
    command: str = "lopsided diagnose",
    progress: SectionProgress | None = None,
) -> dict[str, Any]:
    """Look at a LoRA adapter without its run, and write `out`/diagnosis.json.

    Raises:
        LopsidedError: for an adapter or base that can't be read, or that do not fit.
    """
    started, inputs = time.perf_counter(), AdapterInputs(Path(adapter), base, config, progress)
    tuned = inputs.tuned
    findings = _compute(inputs, {name: WITHOUT_RUN for name in config.only if not SECTIONS[name].is_of_an_adapter})
    diagnosis = strict(_whole(findings, config, {"id": tuned.id, "name": tuned.name}, command, started))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / DIAGNOSIS, diagnosis)
    return diagnosis


def _finished_runs(paths: Sequence[str | Path], note: Note) -> list[Run]:
    """The finished runs at these paths, each folder once; the others are named in notes."""
    folders = list(dict.fromkeys(folder for path in paths for folder in run_folders(path)))
    runs = [run for folder in folders if (run := read_run(folder)) is not None]
    finished = [run for run in runs if run.is_finished]
    if not finished:
        raise LopsidedError(
            f"expected a finished run, got {len(runs)} that did not finish, {runs[0].folder.name} among them, which is "
            f"{runs[0].status}; resume them first"
        )
    for run in runs:
        if not run.is_finished:
            note(f"{run.folder.name} is {run.status}, and is left out")
    return finished


def _tuned_or_reason(inputs: SectionInputs) -> tuple[TunedModel | None, str]:
    """A run as the sections see it, or why it has no linear layers to look at."""
    try:
        return inputs.tuned, ""
    except LopsidedError as error:
        return None, str(error)


def _in_turn() -> list[Section]:
    return sorted(SECTIONS.values(), key=lambda section: section.turn)


def _compute(inputs: SectionInputs, skipped: Mapping[str, str]) -> Findings:
    """Compute the sections that were asked for and are not skipped; an error of ours is the reason to skip one."""
    config, contents, reasons = inputs.config, {}, dict(skipped)
    for section in _in_turn():
        if section.compute is None or section.name not in config.only or section.name in reasons:
            continue
        if Need.REFERENCE in section.needs and config.reference is None:
            continue
        with inputs.progress.of_section(section.name):
            try:
                contents[section.name] = section.compute(inputs)
            except LopsidedError as error:
                reasons[section.name] = str(error)
    return Findings(sections=contents, skipped=reasons)


def _compare(models: Mapping[Path, TunedModel]) -> None:
    """Add the sections that compare models to the diagnosis of each model for which they have a result."""
    for section in _in_turn():
        if section.compare is None:
            continue
        by_id = section.compare(list(models.values()))
        for folder, model in models.items():
            if model.id in by_id:
                write_json(folder / DIAGNOSIS, {**read_json(folder / DIAGNOSIS), section.name: by_id[model.id]})


def _whole(
    findings: Findings, config: DiagnoseConfig, identity: Mapping[str, str], command: str, started: float
) -> dict[str, Any]:
    return {
        "schema": DIAGNOSIS_SCHEMA,
        "run": dict(identity),
        "command": command,
        "settings": config.to_json(),
        "versions": versions(),
        "machine": machine(),
        **findings.sections,
        "skipped": dict(findings.skipped),
        "seconds": round(time.perf_counter() - started, 1),
    }
