"""diagnosis.json: everything that is looked at after training, for one run or one adapter."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lopsided.diagnose.sections.forgetting import forgotten
from lopsided.diagnose.sections.generalization import generalization
from lopsided.diagnose.sections.intruders import intruders
from lopsided.diagnose.sections.landscape import Surroundings, landscape_of_run
from lopsided.diagnose.sections.layers import spectra
from lopsided.diagnose.sections.similarity import similarities
from lopsided.diagnose.sections.timeline import timeline
from lopsided.diagnose.tuned_model import Subject, subject_of_adapter, subject_of_run
from lopsided.errors import LopsidedError, unknown
from lopsided.files.atomic import write_json
from lopsided.files.strict_json import strict
from lopsided.files.untrusted import read_json
from lopsided.runs import finished_run, read_run, run_folders
from lopsided.runs.measure import machine, versions
from lopsided.settings import check_settings, documented
from lopsided_settings.diagnose import DiagnoseSettings

SCHEMA = 1
FILE = "diagnosis.json"
SECTIONS = ("generalization", "layers", "intruders", "landscape", "timeline", "forgetting")
# What an adapter has without the run that it comes from.
OF_AN_ADAPTER = ("layers", "intruders", "forgetting")
Note = Callable[[str], None]


@documented
@dataclass(frozen=True, kw_only=True)
class DiagnoseConfig(DiagnoseSettings):
    """What is looked at, and how closely.

    `only` names some of `SECTIONS`; `around` is of landscapes and sharpness. Intruders among all singular vectors
    decompose every tuned weight. Without a reference, nothing looks at what was forgotten.

    Raises:
        LopsidedError: for an unknown section, or numbers that make no sense.
    """

    only: tuple[str, ...] = SECTIONS
    around: Surroundings = field(default_factory=Surroundings)

    def __post_init__(self) -> None:
        check_settings(self)
        for name in self.only:
            if name not in SECTIONS:
                raise LopsidedError(unknown("section", name, SECTIONS, "some of"))

    def to_json(self) -> dict[str, Any]:
        """Return the `settings` of diagnosis.json."""
        return {
            "only": list(self.only),
            "top": self.top,
            "all_vectors": self.all_vectors,
            "around": dataclasses.asdict(self.around),
            "reference": None if self.reference is None else str(self.reference),
            "seed": self.seed,
        }


@dataclass
class _Findings:
    """Sections as they are made; what a run can't have is told in one line instead."""

    config: DiagnoseConfig
    note: Note
    found: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def section(self, name: str, make: Callable[[], Any]) -> None:
        """Make one section, if it is asked for; our own errors are kept as the reason why it is missing."""
        if name not in self.config.only or name in self.skipped:
            return
        self.note(name)
        try:
            self.found[name] = make()
        except LopsidedError as error:
            self.skipped[name] = str(error)


def diagnose_runs(
    paths: Sequence[Path],
    config: DiagnoseConfig,
    *,
    resume: bool = False,
    command: str = "lopsided diagnose",
    note: Note = lambda text: None,
) -> dict[Path, dict[str, Any]]:
    """Look at every finished run in these folders, and compare the factors of those that have some.

    Args:
        paths: run directories, or folders of them.
        resume: keep a diagnosis that was made of the same run with the same settings.
        command: how it was asked for, for the record.
        note: tells a person how far the work is.

    Returns:
        Each finished run's diagnosis, by its folder.

    Raises:
        LopsidedError: if there is no run, or none that finished.
    """
    folders = list(dict.fromkeys(folder for path in paths for folder in run_folders(path)))
    states = {folder: run.status for folder in folders if (run := read_run(folder))}
    finished = [folder for folder, state in states.items() if state == "finished"]
    if not finished:
        raise LopsidedError(
            f"expected a finished run, got {len(folders)} that did not finish, {folders[0].name} among them, which is "
            f"{states[folders[0]]}; resume them first"
        )
    for folder in folders:
        if folder not in finished:
            note(f"{folder.name} is {states[folder]}, and is left out")
    subjects = {}
    for number, folder in enumerate(finished, start=1):
        kept = resume and _is_diagnosed(folder, config)
        note(f"run {number} of {len(finished)}: {folder.name}{' is diagnosed' if kept else ''}")
        subject = _subject(folder)[0] if kept else diagnose_run(folder, config, command=command, note=note)
        if subject is not None and subject.factors:
            # The weights of many runs would not fit.
            subjects[folder] = dataclasses.replace(subject, layers=())
    if len(subjects) > 1:
        rows = similarities(list(subjects.values()))
        for folder, subject in subjects.items():
            write_json(folder / FILE, {**read_json(folder / FILE), "similarity": rows[subject.id]})
    return {folder: strict(read_json(folder / FILE)) for folder in finished}


def diagnose_run(
    folder: Path, config: DiagnoseConfig, *, command: str = "lopsided diagnose", note: Note = lambda text: None
) -> Subject | None:
    """Look at a finished run, and write its diagnosis.json.

    Returns:
        What was looked at; None for a run that trained a head alone.

    Raises:
        LopsidedError: if the folder holds no finished run.
    """
    started, run, findings = time.perf_counter(), finished_run(folder), _Findings(config, note)
    subject, why = _subject(folder)
    if subject is None:
        findings.skipped |= {name: why for name in (*OF_AN_ADAPTER, "timeline") if name in config.only}
    findings.section("generalization", lambda: generalization(run.predictions, seed=config.seed))
    _look_at_weights(findings, subject, run.settings["model"])
    findings.section("timeline", lambda: timeline(run.to_json(), [layer.links for layer in _there(subject).layers]))
    findings.section("landscape", lambda: landscape_of_run(folder, run.to_json(), config.around, note=note))
    identity = {"id": run.id, "name": run.name}
    write_json(folder / FILE, _whole(findings, identity, command, started))
    return subject


def diagnose_adapter(
    adapter: Path,
    base: str,
    out: Path,
    config: DiagnoseConfig,
    *,
    command: str = "lopsided diagnose",
    note: Note = lambda text: None,
) -> dict[str, Any]:
    """Look at a LoRA adapter without its run, and write `out`/diagnosis.json.

    Raises:
        LopsidedError: for an adapter or base that can't be read, or that do not fit.
    """
    started, findings, subject = time.perf_counter(), _Findings(config, note), subject_of_adapter(adapter, base)
    of_a_run = [name for name in config.only if name not in OF_AN_ADAPTER]
    findings.skipped |= dict.fromkeys(of_a_run, "an adapter does not say how it was trained; diagnose its run")
    _look_at_weights(findings, subject, base)
    diagnosis = strict(_whole(findings, {"id": subject.id, "name": subject.name}, command, started))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, diagnosis)
    return diagnosis


def _subject(folder: Path) -> tuple[Subject | None, str]:
    """A run as the diagnostics see it, or why it has no linear layers to look at."""
    try:
        return subject_of_run(folder), ""
    except LopsidedError as error:
        return None, str(error)


def _there(subject: Subject | None) -> Subject:
    assert subject is not None, "a section of a subject that is not there was skipped before"
    return subject


def _look_at_weights(findings: _Findings, subject: Subject | None, base: str) -> None:
    config, note = findings.config, findings.note
    findings.section("layers", lambda: spectra(_there(subject), top=config.top, note=note))
    findings.section(
        "intruders",
        lambda: intruders(_there(subject), top=config.top, all_vectors=config.all_vectors, note=note),
    )
    reference = config.reference
    if reference is not None:
        findings.section("forgetting", lambda: forgotten(base, _there(subject), reference, seed=config.seed))


def _is_diagnosed(folder: Path, config: DiagnoseConfig) -> bool:
    """Whether the folder holds the diagnosis of this very run, made with these settings."""
    path = folder / FILE
    if not path.is_file():
        return False
    there = read_json(path)
    asked = {"schema": SCHEMA, "settings": config.to_json()}
    return {key: there.get(key) for key in asked} == asked and there["run"]["id"] == finished_run(folder).id


def _whole(findings: _Findings, identity: Mapping[str, str], command: str, started: float) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run": dict(identity),
        "command": command,
        "settings": findings.config.to_json(),
        "versions": versions(),
        "machine": machine(),
        **findings.found,
        "skipped": findings.skipped,
        "seconds": round(time.perf_counter() - started, 1),
    }
