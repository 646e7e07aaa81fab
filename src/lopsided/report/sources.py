"""Which folders a report is made of: run directories, and results of `lopsided lab` and `lopsided advise`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.runs.directory import PREDICTIONS, RECORD, folders_with
from lopsided.runs.saved_diagnosis import DIAGNOSIS
from lopsided.study.comparison import results_path

KINDS = {RECORD: "run", "result.json": "lab", "advice.json": "advice"}
# The files that a report is made of: when one of them changes, the report is made again.
WATCHED = (RECORD, PREDICTIONS, DIAGNOSIS, "result.json", "advice.json")


@dataclass(frozen=True)
class Sources:
    """The folders of each kind, in the order of the arguments, each once."""

    runs: list[Path] = field(default_factory=list)
    lab: list[Path] = field(default_factory=list)
    advice: list[Path] = field(default_factory=list)

    def __iter__(self) -> Iterator[Path]:
        return iter((*self.runs, *self.lab, *self.advice))


def find_sources(paths: Sequence[Path]) -> Sources:
    """Find the run directories, lab results and advice in `paths`, or in folders below them.

    Raises:
        LopsidedError: for a path that is not a folder, or that holds none of these; if no run is among them.
    """
    sources = Sources()
    for path in paths:
        folders = list(folders_with(KINDS, _checked(path)))
        if not folders:
            raise LopsidedError(_nothing_in(path))
        for folder in folders:
            kind = next(kind for name, kind in KINDS.items() if (folder / name).is_file())
            kept = {"run": sources.runs, "lab": sources.lab, "advice": sources.advice}[kind]
            if folder.resolve() not in [other.resolve() for other in kept]:
                kept.append(folder)
    if not sources.runs:
        received = ", ".join(str(folder) for folder in sources) or "none"
        raise LopsidedError(
            f"no runs: expected a run directory, or a folder that contains some, received {received}; "
            "add what `lopsided train` or `lopsided compare` wrote"
        )
    return sources


def state(paths: Sequence[Path]) -> str:
    """Return a short text that changes when a file changes that the report is made of."""
    sources = find_sources(paths)
    files = [folder / name for folder in sources for name in WATCHED]
    # A comparison's results come last, and decide the order of methods with equal figures.
    files += dict.fromkeys(results_path(folder) for folder in sources.runs)
    digest = hashlib.sha256()
    for path in files:
        if path.exists():
            status = path.stat()
            digest.update(f"{path}|{status.st_mtime_ns}|{status.st_size}\n".encode())
    return digest.hexdigest()[:16]


def _checked(path: Path) -> Path:
    if not path.exists():
        raise LopsidedError(f"{path} is not there: expected a run directory, or a folder of them; check the path")
    if not path.is_dir():
        raise LopsidedError(f"{path} is a file: expected a run directory, or a folder of them; give its folder")
    return path


def _nothing_in(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    others = f"{len(names)} other entries ({json.dumps(names[0], allow_nan=False)} …)" if names else "an empty folder"
    return (
        f"{path} is not a run: expected run.json in it or in a folder below, received {others}; "
        "run `lopsided train` or `lopsided compare` first"
    )
