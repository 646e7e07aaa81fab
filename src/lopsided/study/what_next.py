"""What to do with the method that a comparison took: where its adapter is, how it is loaded, how it is exported."""

from __future__ import annotations

import math
import shlex

from lopsided.files.untrusted import ADAPTER_CONFIG, read_json
from lopsided.runs import Run
from lopsided.study.board_rows import Row
from lopsided.study.comparison import Comparison

# PEFT's classes that load an adapter with its base, by the task type that its file holds.
LOADERS = {
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
}


def what_next(comparison: Comparison) -> tuple[str, ...]:
    """Return lines for a terminal; none where no method was taken.

    Runs are those of the first seed. Where all weights were taken, the adapter with the best score follows.
    """
    decision = comparison.leaderboard.decision
    chosen = None if decision is None else decision.chosen
    rows = [row for row in comparison.leaderboard.rows if row.runs]
    row = next((row for row in rows if row.label == chosen), None)
    if row is None:
        return ()
    if _is_adapter(row):
        return _adapter_lines(row, f"The adapter of {chosen} is")
    whole = [f"The model of {chosen} is {row.runs[0].folder / 'adapter'}, for from_pretrained of transformers"]
    adapters = [row for row in rows if _is_adapter(row) and not row.floor]
    best = min(adapters, key=_order, default=None)
    return (*whole, *(_adapter_lines(best, f"The best adapter is that of {best.label},") if best else ()))


def _is_adapter(row: Row) -> bool:
    return (row.runs[0].folder / "adapter" / ADAPTER_CONFIG).is_file()


def _order(row: Row) -> float:
    """The score of a row's first run as a number of which the least is the best."""
    run = row.runs[0]
    score = run.metrics["test"].score.value
    return math.inf if score is None else -score if run.task.greater_is_better else score


def _adapter_lines(row: Row, what: str) -> tuple[str, ...]:
    folder = row.runs[0].folder / "adapter"
    lines = [f"{what} {folder}", *_loading(row.runs[0])]
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
