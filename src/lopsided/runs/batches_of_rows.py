"""Batches of a task's training rows, for what looks at a model without a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat

import numpy as np
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import Inputs


def training_batches(config: TrainConfig, inputs: Inputs, count: int) -> list[dict[str, Tensor]]:
    """Return batches of training rows, shuffled by the seed; rows come again where there are too few.

    Raises:
        LopsidedError: if there are no training rows.
    """
    data = inputs.data
    rows, collate = data.encoded.splits["train"], data.collator()
    if not len(rows):
        raise LopsidedError("expected training rows to make batches of, got none; give the task some")
    order: Sequence[int] = np.random.RandomState(config.seed).permutation(len(rows)).tolist()
    endless = chain.from_iterable(repeat(order))
    return [dict(collate([rows[next(endless)] for _ in range(config.batch_size)])) for _ in range(count)]
