"""Which rows of each split a run is evaluated on: all of them, or as many as it asks for, drawn once for all runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from lopsided.runs.config import TrainConfig
from lopsided.runs.inputs import Data
from lopsided.runs.length_batches import row_lengths


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """The rows of one split that count, in one order: as tokens, and as the task has them."""

    encoded: Dataset
    texts: Dataset


def sample_rows(dataset: Dataset, most: int | None) -> Dataset:
    """Return at most that many rows, drawn once for all runs, shortest first, so that batches need little padding.

    Every method and seed sees the same rows in the same order, which paired comparisons rest on. Never the
    first rows: data sets come sorted by label.
    """
    return dataset.select(drawn_rows(dataset, most))


def drawn_rows(dataset: Dataset, most: int | None) -> np.ndarray:
    """Return the numbers of the rows that `sample_rows` draws, in its order."""
    kept: np.ndarray = np.random.RandomState(0).permutation(len(dataset))[:most]
    # Images have one length: they keep the order in which they were drawn.
    return kept[np.argsort(row_lengths(dataset)[kept], kind="stable")]


def validation_rows(config: TrainConfig, data: Data) -> Dataset:
    """Return the rows on which checkpoints are chosen."""
    return sample_rows(data.encoded.splits["validation"], config.eval_rows)


def evaluated_rows(config: TrainConfig, data: Data) -> dict[str, SplitRows]:
    """Return the rows that the finished run is evaluated on, by split; those out of domain come last."""
    splits = {**data.encoded.splits, **data.encoded.out_of_domain}
    if not config.test:
        splits = {name: splits[name] for name in ("train", "validation")}
    texts = {**data.task.splits, **data.task.out_of_domain}
    counting = {name: drawn_rows(rows, _most(config, name)) for name, rows in splits.items()}
    return {
        name: SplitRows(encoded=splits[name].select(sample), texts=texts[name].select(sample))
        for name, sample in counting.items()
    }


def rows_note(config: TrainConfig, data: Data) -> str:
    """Return what a person should know about the task's rows, and how many of them were evaluated."""
    return "; ".join(filter(None, [data.task.note, *_limits(config, data)]))


def _limits(config: TrainConfig, data: Data) -> Iterator[str]:
    if config.test_rows is None or not config.test:
        return
    counts = {"test": len(data.encoded.splits["test"])}
    counts |= {name: len(rows) for name, rows in data.encoded.out_of_domain.items()}
    limited = [
        f"{config.test_rows:,} of {count:,} rows of {name}"
        for name, count in counts.items()
        if count > config.test_rows
    ]
    if limited:
        yield f"evaluated on {', '.join(limited)}, drawn once for all methods and seeds"


def _most(config: TrainConfig, split: str) -> int | None:
    """Return the most rows of a split that count: test and the other domains share a limit."""
    return {"train": config.train_rows, "validation": config.eval_rows}.get(split, config.test_rows)
