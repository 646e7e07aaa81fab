"""Images of digits in two halves, 0-4 and 5-9, each with rows for training and for the test.

Notation: S seeds; a row is one image, written as its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from lopsided.errors import LopsidedError
from lopsided.lab.idx import read_pair


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Images as rows of 0 to 1, and for each half of the ten digits the rows that train and those that test.

    Shapes:
        x: (examples, pixels); y: (examples,), the digit modulo 5; train, test: for either half (S, rows).
    """

    x: Tensor
    y: Tensor
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def built_in(seeds: Sequence[int]) -> Digits:
    """Return scikit-learn's digits, of which each seed keeps another quarter for the test."""
    images, digits = load_digits(return_X_y=True)
    train, test = [], []
    for half in (digits < 5, digits >= 5):
        rows = np.flatnonzero(half)
        shuffled = torch.tensor(np.array([np.random.RandomState(seed).permutation(rows) for seed in seeds]))
        test.append(shuffled[:, : len(rows) // 4])
        train.append(shuffled[:, len(rows) // 4 :])
    x = torch.tensor(images / 16, dtype=torch.float32)
    return Digits(x=x, y=torch.tensor(digits % 5), train=(train[0], train[1]), test=(test[0], test[1]))


def from_folder(folder: Path, seeds: Sequence[int]) -> Digits:
    """Return the digits of a folder of IDX files, with their own split into training and test rows.

    Raises:
        LopsidedError: if the folder has no such files, or damaged ones.
    """
    parts = [read_pair(folder, part) for part in ("train", "test")]
    if parts[0][0].shape[1:] != parts[1][0].shape[1:]:
        raise LopsidedError(f"expected images of one size in {folder}, got two; fetch the files again")
    x = np.concatenate([images.reshape(len(images), -1) for images, _ in parts])
    digits = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    is_test = np.arange(len(digits)) >= len(parts[0][1])
    rows = [
        torch.tensor(np.flatnonzero(half & (is_test == tested))).expand(len(seeds), -1)
        for tested in (False, True)
        for half in (digits < 5, digits >= 5)
    ]
    if digits.max() > 9 or not all(row.numel() for row in rows):
        raise LopsidedError(f"expected labels 0 to 9 in {folder}, of either half in both parts; give MNIST's files")
    y = torch.tensor(digits % 5)
    scaled = torch.from_numpy(x.astype(np.float32)).div_(255)
    return Digits(x=scaled, y=y, train=(rows[0], rows[1]), test=(rows[2], rows[3]))
