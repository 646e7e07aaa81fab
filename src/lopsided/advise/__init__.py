"""Before training: which layers to adapt, and which learning rate to begin with."""

from __future__ import annotations

from lopsided.advise.advice_file import advice_record, drawings, write_advice, write_rates
from lopsided.advise.by_name import advise_task, fit_head, task_batches
from lopsided.advise.first_rate import Rate, first_rate, first_rates
from lopsided.advise.layer_gains import Advice, LayerEstimate, advise, distinct
from lopsided.advise.moments import collect

__all__ = [
    "Advice",
    "LayerEstimate",
    "Rate",
    "advice_record",
    "advise",
    "advise_task",
    "collect",
    "distinct",
    "drawings",
    "first_rate",
    "first_rates",
    "fit_head",
    "task_batches",
    "write_advice",
    "write_rates",
]
