"""A run's adapter as plain LoRA, which stock PEFT loads."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig

from lopsided.runs.reload import reload
from lopsided.runs.run import finished_run
from lopsided.runs.saved_forms import FORMS


def export_lora(folder: Path, out: Path) -> LoraConfig:
    """Write a run's adapter, chains included, as a LoRA adapter of PEFT on the original base model.

    Args:
        folder: of a finished run.
        out: folder to write; an older one is replaced only when the new one is whole.

    Raises:
        LopsidedError: if what the run trained is not low-rank.
    """
    method = finished_run(folder).method
    return FORMS[method.side.saved_as].export(method, folder / "adapter", lambda: reload(folder), out)
