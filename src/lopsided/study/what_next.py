"""What to do with the method that a comparison took: where its adapter is, how it is loaded, how it is exported."""

from __future__ import annotations

import shlex

from lopsided.files.untrusted import ADAPTER_CONFIG, read_json
from lopsided.runs import Run
from lopsided.study.comparison import Comparison

# PEFT's classes that load an adapter with its base, by the task type that its file holds.
LOADERS = {
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
}


def what_next(comparison: Comparison) -> tuple[str, ...]:
    """Return lines for a terminal; none where no method was taken, or where it has no adapter.

    The adapter is that of the first seed.
    """
    decision = comparison.leaderboard.decision
    chosen = None if decision is None else decision.chosen
    row = next((row for row in comparison.leaderboard.rows if row.label == chosen), None)
    if row is None or not row.runs:
        return ()
    run = row.runs[0]
    folder = run.folder / "adapter"
    if not (folder / ADAPTER_CONFIG).is_file():
        return ()
    lines = [f"The adapter of {chosen} is {folder}", *_loading(run)]
    # A base that PEFT's own method rewrites, or trains otherwise, is no LoRA to be exported.
    if row.method.is_adapter:
        lines.append(f"As plain LoRA: {shlex.join(['lopsided', 'export', str(folder)])}")
    return tuple(lines)


def _loading(run: Run) -> list[str]:
    folder = run.folder / "adapter"
    loader = LOADERS.get(str(read_json(folder / ADAPTER_CONFIG).get("task_type")))
    if loader is None:
        return []
    labels = len(run.task.labels) if run.task.labels else 1
    more = f", num_labels={labels}" if loader == LOADERS["SEQ_CLS"] and labels != 2 else ""
    return [
        "Three lines load it:",
        "    import lopsided",
        f"    from peft import {loader}",
        f"    model = {loader}.from_pretrained({str(folder)!r}{more})",
    ]
