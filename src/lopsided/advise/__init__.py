"""Which side to train: an estimate of each method's gain on a task, layer by layer, before any training."""

from __future__ import annotations

from lopsided.advise.advice_file import advice_record, drawings, write_advice
from lopsided.advise.by_name import advise_task, fit_head, task_batches
from lopsided.advise.layer_gains import Advice, LayerEstimate, MethodTotal, advise, distinct
from lopsided.advise.moments import collect

__all__ = [
    "Advice",
    "LayerEstimate",
    "MethodTotal",
    "advice_record",
    "advise",
    "advise_task",
    "collect",
    "distinct",
    "drawings",
    "fit_head",
    "task_batches",
    "write_advice",
]
