"""Which side to train: what each method could gain on a task, layer by layer, before any of them is run."""

from __future__ import annotations

from lopsided.advise.advice import Advice, Estimate, Total, advise, distinct
from lopsided.advise.advice_file import advice_record, plots, write_advice
from lopsided.advise.by_name import advise_task, fit_head, task_batches
from lopsided.advise.moments import collect

__all__ = [
    "Advice",
    "Estimate",
    "Total",
    "advice_record",
    "advise",
    "advise_task",
    "collect",
    "distinct",
    "fit_head",
    "plots",
    "task_batches",
    "write_advice",
]
