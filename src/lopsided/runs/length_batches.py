"""Batches of rows of about equal length, which are padded little."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

# How many batches are filled from rows that were sorted together. More of them save little padding, and fewer leave the
# order of rows as random as it was.
POOL = 16


class LengthBatches(Sampler[int]):
    """An epoch's rows in random order, of which every `POOL` batches are sorted by length, and these batches shuffled.

    `transformers.LengthGroupedSampler` leaves its batches sorted: a short run sees long rows first and short ones last.
    Rows of one length, such as images, stay in the random order.

    Args:
        lengths: of the rows, shape [rows].
        size: how many rows are a batch.
        seed: of the orders; each epoch has its own.
        epoch: tells which epoch begins.
    """

    def __init__(self, lengths: ArrayLike, size: int, seed: int, epoch: Callable[[], int]) -> None:
        self._lengths, self._size, self._seed, self._epoch = np.asarray(lengths), size, seed, epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.RandomState([self._seed % 2**32, self._epoch()])
        order, pool = random.permutation(len(self._lengths)), POOL * self._size
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self._lengths[rows], kind="stable")]
            # A batch that is not full must be the epoch's last one.
            full = len(rows) // self._size * self._size
            for batch in random.permutation(rows[:full].reshape(-1, self._size)):
                yield from batch.tolist()
            yield from rows[full:].tolist()


def row_lengths(rows: Dataset) -> np.ndarray:
    """Return the number of tokens of each row, shape [rows]; 0 for images, which have one length."""
    tokens = rows["input_ids"] if "input_ids" in rows.column_names else [()] * len(rows)
    return np.array([len(ids) for ids in tokens])
