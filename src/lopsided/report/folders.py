"""Folders -> what they hold: run directories, and results of `lopsided lab` and `lopsided advise`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lopsided.errors import LopsidedError
from lopsided.runs.directory import folders_with

KINDS = {"run.json": "run", "result.json": "lab", "advice.json": "advice"}
# What a run directory's figures come from; a change of one of these makes the report anew.
WATCHED = ("run.json", "predictions.npz", "diagnosis.json", "result.json", "advice.json")


@dataclass(frozen=True)
class Found:
    """The folders of each kind, in the order of the arguments, each once."""

    run: list[Path] = field(default_factory=list)
    lab: list[Path] = field(default_factory=list)
    advice: list[Path] = field(default_factory=list)

    def __iter__(self) -> Iterator[Path]:
        return iter((*self.run, *self.lab, *self.advice))


def find(paths: Sequence[Path]) -> Found:
    """The run directories, lab results and advice in `paths`, or in folders below them.

    Raises:
        LopsidedError: for a path that is not a folder, or that holds none of these; if no run is among them.
    """
    found = Found()
    for path in paths:
        folders = list(folders_with(KINDS, _checked(path)))
        if not folders:
            raise LopsidedError(_nothing_in(path))
        for folder in folders:
            kind = next(kind for name, kind in KINDS.items() if (folder / name).is_file())
            kept = {"run": found.run, "lab": found.lab, "advice": found.advice}[kind]
            if folder.resolve() not in [other.resolve() for other in kept]:
                kept.append(folder)
    if not found.run:
        given = ", ".join(str(folder) for folder in found) or "none"
        raise LopsidedError(
            f"no runs: expected a run directory, or a folder that contains some, received {given}; "
            "add what `lopsided train` or `lopsided compare` wrote"
        )
    return found


def state(paths: Sequence[Path]) -> str:
    """A short text that changes when a file changes that the report is made of."""
    digest = hashlib.sha256()
    for folder in find(paths):
        for name in WATCHED:
            path = folder / name
            if path.exists():
                there = path.stat()
                digest.update(f"{path}|{there.st_mtime_ns}|{there.st_size}\n".encode())
    return digest.hexdigest()[:16]


def _checked(path: Path) -> Path:
    if not path.exists():
        raise LopsidedError(f"{path} is not there: expected a run directory, or a folder of them; check the path")
    if not path.is_dir():
        raise LopsidedError(f"{path} is a file: expected a run directory, or a folder of them; give its folder")
    return path


def _nothing_in(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    held = "an empty folder" if not names else f"{len(names)} other entries ({json.dumps(names[0], allow_nan=False)} …)"
    return (
        f"{path} is not a run: expected run.json in it or in a folder below, received {held}; "
        "run `lopsided train` or `lopsided compare` first"
    )
