"""Whether a run's saved diagnosis makes another one needless, or would be lost to a coarser one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lopsided.diagnose.config import DiagnoseConfig
from lopsided.files.untrusted import read_json
from lopsided.runs.run import Run
from lopsided.runs.saved_diagnosis import DIAGNOSIS, DIAGNOSIS_SCHEMA

# Of a landscape: more of each is closer.
FINENESS = ("points", "rows", "hessian_rows")


def saved_settings(run: Run) -> Mapping[str, Any] | None:
    """Return the settings of the run's diagnosis; None without one of this state of the run and this schema."""
    path = run.folder / DIAGNOSIS
    if not path.is_file():
        return None
    there = read_json(path)
    if there.get("schema") != DIAGNOSIS_SCHEMA or there["run"]["id"] != run.id:
        return None
    settings: Mapping[str, Any] = there.get("settings") or {}
    return settings


def closer_fields(saved: Mapping[str, Any] | None, config: DiagnoseConfig) -> str:
    """Return in words where saved settings look closer than a configuration; "" where they do nowhere.

    Example:
        >>> saved = {"only": ["landscape"], "around": {"points": 26, "rows": 2}, "all_vectors": True}
        >>> closer_fields(saved, DiagnoseConfig())
        'points 26'
    """
    if not saved:
        return ""
    around, mine, looked = saved.get("around") or {}, config.to_json()["around"], saved.get("only", ())
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
    if not set(mine.pop("only")) <= set(saved.get("only", ())):
        return False
    around, wanted = dict(saved.get("around") or {}), mine.pop("around")
    if any(around.pop(name, 0) < wanted.pop(name) for name in FINENESS):
        return False
    if mine.pop("all_vectors") and not saved.get("all_vectors"):
        return False
    # What was forgotten may be there without being asked for.
    if mine["reference"] is None:
        mine.pop("reference")
    return around == wanted and all(saved.get(name) == value for name, value in mine.items())
