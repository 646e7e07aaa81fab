"""The view of a run whose directory is on another machine, from what was sent of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lopsided.errors import LopsidedError
from lopsided.runs.directory import SCHEMA
from lopsided.runs.facts import Predictions
from lopsided.runs.run import BEGUN, FINISHED, Run


def run_of_record(record: Mapping[str, Any], rows: Mapping[str, Predictions], folder: Path) -> Run:
    """Return the view of a finished run that was made elsewhere, from its record and predictions.

    Args:
        record: what its `run.json` holds; without `history` it has no losses by step.
        rows, folder: the predictions by split and column, and where the run lies, or lay.

    Raises:
        LopsidedError: if the record is not that of a finished run.
    """
    record = {"history": [], **record}
    missing = [key for key in (*BEGUN, *FINISHED) if key not in record]
    if record.get("schema") != SCHEMA or record.get("status") != "finished" or missing:
        raise LopsidedError(
            f"expected the record of a finished run of schema {SCHEMA}, received one without {', '.join(missing)}; "
            "take the results that `lopsided bench` wrote"
        )
    return Run(
        folder=folder,
        status="finished",
        error=None,
        settings=record["config"],
        versions=record["versions"],
        machine=record["machine"],
        record=record,
        rows=rows,
    )
