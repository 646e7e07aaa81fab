"""What a run directory says of how to go on with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.method import METHODS
from lopsided.runs.config import TrainConfig
from lopsided.runs.directory import newest_checkpoint
from lopsided.runs.run import Run, read_run


def resumed_config(folder: str | Path, given: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the configuration of the run in a folder, for `train(resumed_config(folder), resume=True)`.

    Its method need not be registered in this process: the record has its parts, and it is registered by them.

    Args:
        folder: the run directory.
        given: settings that are asked for, by name. Of a run with a checkpoint they must be the run's own; one that
            has none yet begins again, with these.

    Raises:
        LopsidedError: if there is no run, or it has other settings.
    """
    folder = Path(folder)
    run, given = read_run(folder), dict(given or {})
    if run is None:
        raise LopsidedError(
            f"{folder} holds nothing to resume; expected a run directory with its run.json; check the folder, or begin "
            "a run there without --resume"
        )
    if run.is_finished or newest_checkpoint(folder) is not None:
        refuse_others(folder, given, settings_there(run))
        given = {}
    settings = {**run.settings, **given}
    if settings["method"] == run.settings["method"]:
        adopt_method(run)
    return TrainConfig(**settings, out=folder)


def settings_there(run: Run) -> dict[str, Any]:
    """Return a run's settings, with defaults for those that are newer than the version that made it."""
    return {**{each.name: each.default for each in dataclasses.fields(TrainConfig)}, **run.settings}


def refuse_others(folder: Path, given: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Raise if settings that are asked for are not those that are there.

    Raises:
        LopsidedError: with each setting that differs.
    """
    differing = [
        f"{key}={there.get(key)!r}, asked {value!r}" for key, value in given.items() if value != there.get(key)
    ]
    if differing:
        raise LopsidedError(f"{folder} holds a run with {'; '.join(differing)}; resume with its own options")


def adopt_method(run: Run) -> None:
    """Register a run's method by the parts in its record, unless a method of that name is there.

    A name with a colon belongs to a namespace, which knows its own methods.
    """
    name = run.settings["method"]
    if ":" not in name:
        METHODS.setdefault(name, run.method)
