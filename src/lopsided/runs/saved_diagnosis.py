"""diagnosis.json in a run directory: its name, its schema, and whether it is of this state of the run.

`lopsided.diagnose` writes the file; what it holds is described there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.files.strict_json import loads

DIAGNOSIS = "diagnosis.json"
DIAGNOSIS_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class SavedDiagnosis:
    """The content of diagnosis.json, or why it is not of this run.

    Args:
        content: plain data; None where the file is missing, of another schema, or of an earlier state of the run.
        note: the reason, with the command that makes it again; None where the file is missing or fits.
    """

    content: dict[str, Any] | None
    note: str | None = None


def read_diagnosis(folder: Path, run_id: str) -> SavedDiagnosis:
    """Read a run directory's diagnosis.

    Args:
        run_id: of the run as it is now.

    Raises:
        LopsidedError: if the file is not JSON.
    """
    path = folder / DIAGNOSIS
    if not path.is_file():
        return SavedDiagnosis(content=None)
    try:
        content = loads(path.read_text())
    except json.JSONDecodeError as error:
        raise LopsidedError(f"{path}:{error.lineno}: not JSON ({error.msg}); diagnose the run again") from error
    if not isinstance(content, dict) or content.get("schema") != DIAGNOSIS_SCHEMA:
        reason = f"is not of schema {DIAGNOSIS_SCHEMA}"
    elif content["run"]["id"] != run_id:
        reason = "is of an earlier state"
    else:
        return SavedDiagnosis(content=content)
    return SavedDiagnosis(content=None, note=f"its {DIAGNOSIS} {reason}: run `lopsided diagnose {folder}` again")
