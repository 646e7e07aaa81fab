"""Whether a run's saved diagnosis makes another one needless, or would be lost to a coarser one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lopsided.diagnose.config import DiagnoseConfig
from lopsided.errors import LopsidedError
from lopsided.runs.run import Run
from lopsided.runs.saved_diagnosis import read_diagnosis

# Of a landscape: more of each is closer.
FINENESS = ("points", "rows", "hessian_rows")


def saved_settings(run: Run) -> Mapping[str, Any] | None:
    """Return the settings of the run's diagnosis; None without one of this state of the run and this schema."""
    try:
        content = read_diagnosis(run.folder, run.id).content
    except LopsidedError:
        # No JSON: the error says to diagnose the run again, which is about to happen.
        return None
    return None if content is None else content.get("settings")


def closer_fields(saved: Mapping[str, Any] | None, config: DiagnoseConfig) -> str:
    """Return in words where saved settings look closer than a configuration; "" if nowhere.

    Example:
        >>> saved = {"only": ["landscape"], "around": {"points": 26, "rows": 2}, "all_vectors": True}
        >>> closer_fields(saved, DiagnoseConfig())
        'points 26'
    """
    if not saved:
        return ""
    around, mine, looked = saved.get("around") or {}, dataclasses.asdict(config.landscape), saved.get("only", ())
    fields = [
        f"{name.replace('_', '-')} {around[name]}"
        for name in FINENESS
        if "landscape" in looked and around.get(name, 0) > mine[name]
    ]
    if "intruders" in looked and saved.get("all_vectors") and not config.all_vectors:
        fields.append("all vectors")
    return ", ".join(fields)


def holds_all(saved: Mapping[str, Any], config: DiagnoseConfig) -> bool:
    """Return whether saved settings say all that a configuration asks for, nothing of it coarser or of another kind."""
    mine = config.to_json()
    del mine["around"]
    if not set(mine.pop("only")) <= set(saved.get("only", ())):
        return False
    around, wanted = dict(saved.get("around") or {}), dataclasses.asdict(config.landscape)
    if any(around.pop(name, 0) < wanted.pop(name) for name in FINENESS):
        return False
    if mine.pop("all_vectors") and not saved.get("all_vectors"):
        return False
    # What was forgotten may be there without being asked for.
    if mine["reference"] is None:
        mine.pop("reference")
    return around == wanted and all(saved.get(name) == value for name, value in mine.items())
