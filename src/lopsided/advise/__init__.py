"""Which side to train: what each method could gain on a task, layer by layer, before any of them is run."""

from __future__ import annotations

from lopsided.advise.advice import Advice, Estimate, Total, advise, distinct
from lopsided.advise.moments import collect
from lopsided.advise.of_task import advise_task, fit_head, task_batches
from lopsided.advise.record import advice_record, plots, write_advice

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
